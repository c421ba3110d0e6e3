"""The events that lie between two looks at a job's progress."""

from rhocache_schemas.cache.documents import Progress, ShardOutcome
from rhocache_service import metrics
from rhocache_service.registry.jobs import Happening


def between(before: Progress | None, now: Progress) -> list[Happening]:
    """Tell each shard that was settled since, and how far the job is.

    Where a driver settled more shards than its progress names, the numbers are right all the same.
    """
    found: list[Happening] = []
    for outcome in settled_between(before, now):
        kind = "shard.committed" if outcome.code is None else "shard.failed"
        found.append((kind, outcome.model_dump(exclude_none=True)))
    found.append(("job.progress", now.model_dump(mode="json", exclude={"recent", "fault"})))
    return found


def count(before: Progress | None, now: Progress) -> None:
    """Add what lies between them to the metrics."""
    for outcome in settled_between(before, now):
        metrics.SHARDS.labels("committed" if outcome.code is None else "failed").inc()
        metrics.PAIRS.labels("ok").inc(outcome.rows - outcome.failed)
        metrics.PAIRS.labels("failed").inc(outcome.failed)


def settled_between(before: Progress | None, now: Progress) -> list[ShardOutcome]:
    same_run = before is not None and before.started_at == now.started_at
    new = now.settled - (before.settled if before is not None and same_run else 0)
    return now.recent[max(0, len(now.recent) - new) :] if new > 0 else []
