"""Decides which shards a run encodes, and which of its cache stay as they are."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from rhocache_schemas.cache.listing import read_failures, shard_files
from rhocache_schemas.dataset.formats import find_kind, read_shard
from rhocache_schemas.dataset.shards import Shard, check_same_dataset, dataset_root
from rhocache_schemas.dataset.source import AUTO
from rhocache_schemas.errors import CacheCorrupt, RhocacheError, ShardError, ShardErrorCode
from rhocache_schemas.job.allowed_roots import Under, find_allowed, open_allowed, true_place
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.messages import CommittedShard
from rhocache_workers.run.segments import read_segments
from rhocache_workers.run.standing import Standing
from rhocache_workers.run.survey import Survey, survey


@dataclass(frozen=True, slots=True)
class Resume:
    todo: list[Shard]
    keep: dict[str, CommittedShard]  # by name: their rows stay
    failures: dict[str, ShardError]  # of earlier runs, of shards that this one does not look at
    failed_before: frozenset[str]  # of earlier runs, all of them
    gone: int  # of those that stay, how many the dataset no longer has
    dropped: frozenset[str]  # what leaves the cache, since that was asked for
    empty: bool  # there was nothing in the cache

    def afresh(self, shards: list[Shard]) -> "Resume":
        """The same with nothing kept, for a cache that becomes another reference's."""
        return replace(self, todo=shards, keep={}, gone=0)


def with_format(spec: ScoreSpec, roots: list[str] | None) -> ScoreSpec:
    """Return the spec with the format that its dataset shows to be of, where it names none.

    Raises DatasetError, UriNotAllowed and StorageError.
    """
    if spec.format != AUTO:
        return spec
    kind = find_kind(spec.dataset, None if roots is None else Under(roots))
    return spec.model_copy(update={"format": kind})


def choose_shards(
    spec: ScoreSpec, roots: list[str] | None, redo: Collection[str] | None
) -> list[Shard]:
    """List the shards that a run looks at: those of ``redo``, or all that the job names.

    Raises DatasetError, InvalidInput, UriNotAllowed and StorageError.
    """
    if redo is not None:
        return list(find_allowed(spec.source, spec.format, redo, roots).values())
    dataset = open_allowed(spec.source, spec.format, roots)
    dataset.check_kind()
    shards = dataset.dated()
    return shards if spec.limit is None else list(_first(spec, shards))


def _first(spec: ScoreSpec, shards: list[Shard]) -> Iterator[Shard]:
    """The first shards that hold so many pairs, the last of them cut; tars are read to count."""
    pairs = spec.limit or 0
    for shard in shards:
        held = shard.rows or 0
        if shard.rows is None:
            with suppress(ShardError):  # its encoder will tell
                held = sum(1 for _ in islice(read_shard(shard, spec.source), pairs + 1))
        yield replace(shard, most=pairs) if held > pairs else shard
        pairs -= held
        if pairs <= 0:
            return


def resume(
    spec: ScoreSpec, shards: list[Shard], standing: Standing, roots: list[str] | None, *, redo: bool
) -> Resume:
    """Compare the cache with the job's dataset, of which it looks at ``shards``.

    Raises DatasetMismatch where the cache holds another one, CacheCorrupt where a file is damaged
    that would stay, UriNotAllowed and StorageError.
    """
    asked = {shard.name: shard for shard in shards}
    failed = read_failures(spec.output)
    files = shard_files(spec.output)
    others = (standing.index.keys() | files.keys() | failed.keys()) - asked.keys()
    sources = asked | find_allowed(spec.source, spec.format, sorted(others), roots)
    held = survey(
        spec.output,
        files,
        standing.committed,
        _noted(spec.output, standing),
        sources,
        spec.source,
        standing.fingerprint,
        moved=standing.dataset is None or not _same_root(standing.dataset, spec.dataset),
    )
    if not spec.replace:
        check_same_dataset(
            spec.output,
            standing.dataset or "a dataset that it does not name",
            spec.dataset,
            same=len(held.same),
            changed=len(held.changed),
            gone=len(held.gone),
            unknown=len(held.unreadable),
        )
    keep = _kept(spec, asked, held, redo=redo)
    left = _left(spec, sources, failed.keys() - asked.keys(), empty=not held.all)
    return Resume(
        todo=[shard for shard in shards if shard.name not in keep],
        keep=keep,
        failures={
            name: ShardError(ShardErrorCode(failed[name].code), name, failed[name].detail)
            for name in left - keep.keys()
        },
        failed_before=frozenset(failed),
        gone=len(keep.keys() & held.gone.keys()),
        dropped=frozenset((held.all.keys() | failed.keys()) - keep.keys() - asked.keys() - left),
        empty=not held.all,
    )


def _noted(cache: str, standing: Standing) -> dict[str, CommittedShard]:
    """What runs that did not end have noted; nothing where the index is to be made of the files."""
    damaged = standing.manifest is not None and standing.committed is None
    if standing.fingerprint is None or damaged:
        return {}
    return read_segments(cache, standing.fingerprint.digest)


def _same_root(before: str, now: str) -> bool:
    if before == now:
        return True
    try:
        return true_place(dataset_root(before)) == true_place(dataset_root(now))
    except RhocacheError:  # data that moved may have left a store that answers no more
        return False


def _kept(
    spec: ScoreSpec, asked: Mapping[str, Shard], held: Survey, *, redo: bool
) -> dict[str, CommittedShard]:
    def stays(name: str, shard: CommittedShard) -> bool:
        if name in asked:
            right = name in held.same and name not in held.damaged
            wanted = asked[name].most
            right = right and shard.encoded == min(wanted or shard.index.rows, shard.index.rows)
            return right and not redo and not (spec.retry_failed and shard.retryable)
        return not spec.replace and not (spec.prune and name in held.gone)

    keep = {name: shard for name, shard in held.all.items() if stays(name, shard)}
    if broken := sorted(keep.keys() & held.damaged):
        raise CacheCorrupt(
            f"{spec.output}: the file of shard {broken[0]} is damaged or missing"
            + (f", as are {len(broken) - 1} others" if broken[1:] else "")
            + ": `rhocache verify --repair` encodes what is broken again"
        )
    return keep


def _left(
    spec: ScoreSpec, sources: Mapping[str, Shard], failed: Collection[str], *, empty: bool
) -> set[str]:
    """Of the shards that failed in earlier runs, those whose record stays."""
    if spec.replace:
        return set()
    return {name for name in failed if name in sources or not (spec.prune or empty)}
