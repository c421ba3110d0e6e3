"""A job of the registry as the REST resource that clients see."""

from typing import Any, TypedDict

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


class HowFar(TypedDict):
    """The fields of a job that tell how far it is, in its resource and in its events."""

    request_counts: RequestCounts
    shard_counts: ShardCounts
    progress: JobProgress
    failed_by_code: dict[str, int]


def how_far(progress: Progress) -> HowFar:
    """Return what a driver tells of a job that goes on."""
    return {
        "request_counts": RequestCounts(
            completed=progress.pairs_done - progress.pairs_failed, failed=progress.pairs_failed
        ),
        "shard_counts": ShardCounts(
            total=progress.shards_total,
            committed=progress.shards_committed,
            failed=progress.shards_failed,
        ),
        "progress": JobProgress(
            pairs_per_second=progress.pairs_per_second,
            seconds_left=progress.seconds_left,
            limited_by=progress.limited_by,
            pairs_reused=progress.run.pairs_reused,
            steps=progress.steps,
        ),
        "failed_by_code": progress.failed_by_code,
    }


def job_resource(row: JobRow) -> Job:
    far: HowFar = {
        "request_counts": RequestCounts(),
        "shard_counts": ShardCounts(total=row.shards),
        "progress": JobProgress(),
        "failed_by_code": {},
    }
    if row.progress:
        far = how_far(Progress.model_validate(row.progress))
        if row.state.terminal:
            far["progress"].seconds_left = None
        if row.state is JobState.COMPLETED:
            counts = far["request_counts"]
            counts.total = counts.completed + counts.failed
    times: Any = {f"{name}_at": row.times.get(name) for name in _TIMES}
    return Job(
        id=row.id,
        status=row.state,
        spec=row.job_spec(),
        output_uri=row.spec["output"],
        **far,
        fingerprint=row.fingerprint,
        errors=[Fault(code=row.error_code, detail=row.error_detail or "")]
        if row.error_code
        else [],
        metadata=row.spec["metadata"],
        priority=row.priority,
        webhook=row.webhook,
        follows=row.follows,
        retries=row.retries,
        created_at=int(row.created_at),
        expires_at=None if row.deadline is None else int(row.deadline),
        **times,
    )
