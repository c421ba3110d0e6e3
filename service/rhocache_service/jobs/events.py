"""An event of the registry as clients see it, whichever service wrote it."""

from rhocache_schemas.cache.documents import Fault, Progress, ShardOutcome
from rhocache_schemas.events import (
    EventData,
    JobProgressEvent,
    JobStatusEvent,
    ShardCommittedEvent,
    ShardFailedEvent,
)
from rhocache_service.jobs.resource import how_far
from rhocache_service.registry.tables import EventRow


def event_data(event: EventRow) -> EventData:
    """The registry keeps what drivers and it itself tell; readers get what a Job calls it."""
    match event.kind:
        case "job.status":
            error = event.data.get("error")
            errors = [] if error is None else [Fault.model_validate(error)]
            return JobStatusEvent(at=event.at, status=event.data["status"], errors=errors)
        case "job.progress":
            progress = Progress.model_validate(event.data)
            shards = progress.shards_in_progress
            return JobProgressEvent(at=event.at, **how_far(progress), shards_in_progress=shards)
        case _:
            ended = ShardOutcome.model_validate(event.data)
            if ended.code is not None:
                return ShardFailedEvent(at=event.at, name=ended.shard, code=ended.code)
            return ShardCommittedEvent(
                at=event.at,
                name=ended.shard,
                rows=ended.rows,
                failed=ended.failed,
                seconds=ended.seconds,
                encoder=ended.encoder,
            )
