"""Reads a running job's progress file, and derives its events from two snapshots."""

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Progress, ShardOutcome
from rhocache_service.registry.jobs import Happening
from rhocache_service.registry.tables import JobRow

_NAMED = 100  # shards in progress that an event names: each event is kept


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
    """Return the events derived from two progress snapshots: each shard that has ended since,
    and how far the job is.

    Where more shards ended than the progress names, the numbers are right all the same.
    """
    found: list[Happening] = []
    for outcome in ended_between(before, now):
        kind = "shard.committed" if outcome.code is None else "shard.failed"
        found.append((kind, outcome.model_dump(exclude_none=True)))
    named = now.model_copy(update={"shards_in_progress": now.shards_in_progress[:_NAMED]})
    found.append(("job.progress", named.model_dump(mode="json", exclude={"recent", "fault"})))
    return found


def ended_between(before: Progress | None, now: Progress) -> list[ShardOutcome]:
    same_run = before is not None and before.started_at == now.started_at
    new = now.shards_ended - (before.shards_ended if before is not None and same_run else 0)
    return now.recent[max(0, len(now.recent) - new) :] if new > 0 else []
