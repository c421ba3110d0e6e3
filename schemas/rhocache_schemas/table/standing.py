"""Whether a job may write its table where it is asked to."""

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.listing import shard_files
from rhocache_schemas.errors import InvalidInput, TableMismatch
from rhocache_schemas.job.allowed_roots import true_place
from rhocache_schemas.job.over_cache import CacheJobSpec
from rhocache_schemas.table.documents import TablePlan


def check_output(spec: CacheJobSpec, plan: TablePlan | None = None) -> None:
    """Refuse an output that lies in the cache or holds one, and unless it is to be replaced one
    that holds another table.

    ``plan`` is the one that the table would be begun with; without it the specs alone are compared.

    Raises InvalidInput, TableMismatch, InvalidDocument for a plan that is damaged, UriNotAllowed
    and StorageError.
    """
    ours, theirs = true_place(spec.output), true_place(spec.cache)
    if ours[0] == theirs[0] and ours[1][: len(theirs[1])] == theirs[1]:
        raise InvalidInput(
            f"the output {spec.output} lies in the cache {spec.cache}: a table needs a folder of "
            "its own"
        )
    for sign in (layout.plan_file, layout.manifest_file):
        if storage.exists(sign(spec.output)):
            raise TableMismatch(f"{spec.output} holds a cache, and no table: use another output")
    uri = layout.table_plan(spec.output)
    if spec.replace or not storage.exists(uri):
        return
    there = TablePlan.read(uri)
    if (differing := _differing(there, spec, plan)) and not _is_empty(spec.output):
        raise TableMismatch(
            f"{spec.output} holds another table; differing: {', '.join(differing)}. Use another "
            "output, or give up what is there with --replace"
        )


def _is_empty(table: str) -> bool:
    """Whether a table was begun and given up before any file of it was written."""
    return not storage.exists(layout.table_manifest(table)) and not shard_files(table)


def _differing(there: TablePlan, spec: CacheJobSpec, plan: TablePlan | None) -> list[str]:
    before, now = there.spec, spec.asked
    kept = before.model_dump(mode="json")
    found = [
        f"{name} (there: {kept.get(name)}, now: {value})"
        for name, value in now.items()
        if kept.get(name) != value
    ]
    if plan is None or found:
        return found
    if there.cache_manifest_sha256 != plan.cache_manifest_sha256:
        found.append("the cache, which is another one or was committed anew")
    names = there.inputs.keys() | plan.inputs.keys()
    found += [name for name in sorted(names) if there.inputs.get(name) != plan.inputs.get(name)]
    return found
