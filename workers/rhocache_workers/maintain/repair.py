"""Encodes again the shards that ``verify`` found broken."""

from rhocache_schemas import layout
from rhocache_schemas.cache.documents import Plan
from rhocache_schemas.dataset.formats import find_shards
from rhocache_schemas.errors import DatasetError
from rhocache_workers.maintain.verify import VerifyReport
from rhocache_workers.run.driver import ScoreSummary, score
from rhocache_workers.run.progress import OnProgress
from rhocache_workers.run.standing import find_readable


def repair(
    report: VerifyReport,
    *,
    dataset: str | None = None,
    ray_address: str | None = None,
    on_progress: OnProgress | None = None,
) -> ScoreSummary:
    """Encode the shards again in which something was found, and commit the cache anew.

    The dataset and the reference are the manifest's, or what the cache was begun with where that
    can't be read. Every other shard stays as it is.

    Raises DatasetError where the dataset has a broken shard no more, and what ``score`` does.
    """
    spec = Plan.read(layout.plan_file(report.cache)).spec
    found = find_readable(report.cache)
    if found is not None:
        manifest = found.manifest
        made_of = {
            "dataset": manifest.dataset,
            "format": manifest.format,
            "images": manifest.images,
            "reference": manifest.reference,
        }
        spec = spec.model_copy(update=made_of)
    if dataset is not None:
        spec = spec.model_copy(update={"dataset": dataset})
    as_it_is = {"output": report.cache, "prune": False, "replace": False, "reuse": []}
    spec = spec.model_copy(update=as_it_is)
    broken = {finding.shard for finding in report.findings if finding.shard is not None}
    there = find_shards(spec.source, spec.format, sorted(broken))
    if gone := sorted(broken - there.keys()):
        raise DatasetError(
            f"{spec.dataset} has no shard {gone[0]}, which is broken in {report.cache}: name the "
            "folder that has it (--dataset), or drop it with `rhocache score --prune`, or with "
            "--replace where the index is damaged too"
        )
    return score(
        spec,
        redo=broken if report.complete else None,  # else any shard may be missing
        rebuild_index=True,
        ray_address=ray_address,
        on_progress=on_progress,
    )
