"""What happens to a job, as its event stream and its webhook tell it: names are those of a Job."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, Field

from rhocache_schemas.api import JobProgress, RequestCounts, ShardCounts
from rhocache_schemas.cache.documents import Fault
from rhocache_schemas.job.spec import JobState

At = Annotated[float, Field(description="when it happened, in Unix seconds")]


class JobStatusEvent(BaseModel):
    """Data of ``job.status``: the job has entered a state."""

    at: At
    status: JobState
    errors: Annotated[list[Fault], Field(description="why the job failed")] = []


class JobProgressEvent(BaseModel):
    """Data of ``job.progress``: how far the job is."""

    at: At
    request_counts: RequestCounts
    shard_counts: ShardCounts
    progress: JobProgress
    failed_by_code: Annotated[dict[str, int], Field(description="failed pairs by error code")] = {}
    shards_in_progress: Annotated[list[str], Field(description="by name, the first 100")] = []


class ShardCommittedEvent(BaseModel):
    """Data of ``shard.committed``: a shard's rows are in the cache."""

    at: At
    name: str
    status: Literal["committed"] = "committed"
    rows: int
    failed: Annotated[int, Field(description="rows without embeddings")]
    seconds: Annotated[float | None, Field(description="that its encoder took")] = None
    encoder: Annotated[str | None, Field(description="who encoded it")] = None


class ShardFailedEvent(BaseModel):
    """Data of ``shard.failed``: a shard could not be read."""

    at: At
    name: str
    status: Literal["failed"] = "failed"
    code: str


EventData = JobStatusEvent | JobProgressEvent | ShardCommittedEvent | ShardFailedEvent
EVENTS: dict[str, type[EventData]] = {
    "job.status": JobStatusEvent,
    "job.progress": JobProgressEvent,
    "shard.committed": ShardCommittedEvent,
    "shard.failed": ShardFailedEvent,
}


class EndedJob(BaseModel):
    id: str
    object: Literal["job"] = "job"
    status: JobState
    metadata: dict[str, str]


class JobEnded(BaseModel):
    """The body of a webhook: a job has come to an end. What it was asked for is not told."""

    type: Literal["job.completed", "job.failed", "job.cancelled", "job.expired"]
    timestamp: Annotated[AwareDatetime, Field(description="when it ended")]
    data: EndedJob

    @classmethod
    def now(cls, job: str, status: JobState, metadata: dict[str, str]) -> Self:
        data = EndedJob(id=job, status=status, metadata=metadata)
        return cls.model_validate(
            {"type": f"job.{status}", "timestamp": datetime.now(UTC), "data": data}
        )


class Event(BaseModel):
    """Something that happened to a job. ``event`` is one of EVENTS, and says what ``data`` is."""

    id: int
    event: str
    data: EventData
