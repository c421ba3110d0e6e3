"""The bodies that the service sends, shared with its client (RFC 9457 for problems)."""

from typing import Literal

from pydantic import BaseModel

from rhocache_schemas.job import JobSpec, JobState
from rhocache_schemas.records import Fault


class RequestCounts(BaseModel):
    """Of pairs. ``total`` is null until every shard has been read."""

    total: int | None = None
    completed: int = 0
    failed: int = 0


class ShardCounts(BaseModel):
    total: int | None = None
    completed: int = 0
    failed: int = 0


class JobProgress(BaseModel):
    pairs_per_second: float = 0.0
    seconds_left: float | None = None


class Job(BaseModel):
    """Field names as in the OpenAI Batch API; times are Unix seconds."""

    id: str
    object: Literal["job"] = "job"
    status: JobState
    spec: JobSpec
    output_uri: str
    request_counts: RequestCounts
    shard_counts: ShardCounts
    progress: JobProgress
    error: Fault | None = None
    metadata: dict[str, str] = {}
    created_at: int
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Job]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class PairError(BaseModel):
    """A pair, or with no key a whole shard, that failed."""

    shard: str
    key: str | None = None
    row: int | None = None
    code: str
    detail: str | None = None


class PairErrorList(BaseModel):
    object: Literal["list"] = "list"
    data: list[PairError]
    has_more: bool = False


class FieldError(BaseModel):
    pointer: str  # JSON pointer into the request body
    detail: str


class Problem(BaseModel):
    """application/problem+json."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[FieldError] = []
