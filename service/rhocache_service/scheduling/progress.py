"""A running job's progress: what its driver has written, and the events that come of it."""

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Progress, ShardOutcome
from rhocache_service.registry.jobs import Happening
from rhocache_service.registry.tables import JobRow


def read_progress(row: JobRow) -> Progress | None:
    """Return what this job's driver wrote last; not what an earlier job wrote of the same cache.

    Raises StorageError and InvalidDocument.
    """
    uri = layout.progress_file(row.spec["output"])
    if not storage.exists(uri):
        return None
    progress = Progress.read(uri)
    return progress if progress.job == row.id else None


def events_between(before: Progress | None, now: Progress) -> list[Happening]:
    """Return the events derived from two progress snapshots: each shard that was settled since,
    and how far the job is.

    Where a driver settled more shards than its progress names, the numbers are right all the same.
    """
    found: list[Happening] = []
    for outcome in settled_between(before, now):
        kind = "shard.committed" if outcome.code is None else "shard.failed"
        found.append((kind, outcome.model_dump(exclude_none=True)))
    found.append(("job.progress", now.model_dump(mode="json", exclude={"recent", "fault"})))
    return found


def settled_between(before: Progress | None, now: Progress) -> list[ShardOutcome]:
    same_run = before is not None and before.started_at == now.started_at
    new = now.settled - (before.settled if before is not None and same_run else 0)
    return now.recent[max(0, len(now.recent) - new) :] if new > 0 else []
