"""A job of the registry as the REST resource that clients see."""

from rhocache_schemas.api import (
    Job,
    JobProgress,
    RequestCounts,
    ShardCounts,
    ShardList,
    ShardStatus,
)
from rhocache_schemas.cache.documents import Fault, Progress
from rhocache_schemas.job.spec import JobState
from rhocache_service.jobs.kinds import kind_of
from rhocache_service.registry.tables import JobRow

_TIMES = (
    "in_progress", "finalizing", "completed", "failed", "cancelling", "cancelled", "expired",
)  # fmt: skip


def shard_resources(row: JobRow, limit: int, after: str | None) -> ShardList:
    """Return a page of a job's shards; those that its driver was encoding when last seen are in
    progress, until the job has ended: a driver that was killed has left some in its progress.

    Raises InvalidInput for a kind that is not installed here, and what JobKind.shards does.
    """
    spec = row.job_spec()
    page = kind_of(spec).shards(spec, limit, after)
    if row.state.terminal or not row.progress:
        return page
    encoded = Progress.model_validate(row.progress).shards_in_progress
    data = [
        ShardStatus(name=shard.name, status="in_progress") if shard.name in encoded else shard
        for shard in page.data
    ]
    return page.model_copy(update={"data": data})


def job_resource(row: JobRow) -> Job:
    progress = Progress.model_validate(row.progress) if row.progress else None
    counts, shards, speed = RequestCounts(), ShardCounts(total=row.shards), JobProgress()
    failed_by_code: dict[str, int] = {}
    if progress is not None:
        counts = RequestCounts(
            total=progress.pairs_done if row.state is JobState.COMPLETED else None,
            completed=progress.pairs_done - progress.pairs_failed,
            failed=progress.pairs_failed,
        )
        failed_by_code = progress.failed_by_code
        shards = ShardCounts(
            total=progress.shards_total,
            committed=progress.shards_committed,
            failed=progress.shards_failed,
        )
        speed = JobProgress(
            pairs_per_second=progress.pairs_per_second,
            seconds_left=None if row.state.terminal else progress.seconds_left,
            steps=progress.steps,
        )
    return Job(
        id=row.id,
        status=row.state,
        spec=row.job_spec(),
        output_uri=row.spec["output"],
        request_counts=counts,
        shard_counts=shards,
        progress=speed,
        fingerprint=row.fingerprint,
        errors=[Fault(code=row.error_code, detail=row.error_detail or "")]
        if row.error_code
        else [],
        failed_by_code=failed_by_code,
        metadata=row.spec["metadata"],
        priority=row.priority,
        follows=row.follows,
        retries=row.retries,
        created_at=int(row.created_at),
        expires_at=None if row.deadline is None else int(row.deadline),
        **{f"{name}_at": row.times.get(name) for name in _TIMES},  # pyright: ignore
    )
