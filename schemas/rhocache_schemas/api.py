"""The bodies that the service sends, and the scopes of its API keys, shared with its client."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from rhocache_schemas.cache.documents import Fault
from rhocache_schemas.job.spec import JobSpec, JobState

# What an API key may permit.
Scope = Literal["jobs:read", "jobs:write", "caches:read", "metrics:read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


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


class Submission(JobSpec):
    """A job spec, and how the service is to treat it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "dataset": "/data/openclipart",
                    "output": "/data/caches/openclipart",
                    "reference": {"model": "local-dir:/data/models/vit-b-32"},
                    "metadata": {"owner": "vision"},
                    "priority": 1,
                },
                {
                    "dataset": "s3://data/laion/{00000..00099}.tar",
                    "output": "s3://data/caches/laion",
                    "reference": {"model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"},
                },
            ]
        }
    )

    priority: Annotated[
        int, Field(ge=-100, le=100, description="jobs of a higher one start first")
    ] = 0
    expires_after: Annotated[
        int | None,
        Field(
            ge=1, le=31_536_000, description="seconds from now until the job expires; null: never"
        ),
    ] = None

    def job_spec(self) -> JobSpec:
        return JobSpec.model_validate(self.model_dump(include=set(JobSpec.model_fields)))


class Job(BaseModel):
    """Field names as in the OpenAI Batch API; times are Unix seconds."""

    id: str
    object: Literal["job"] = "job"
    status: JobState
    spec: JobSpec
    output_uri: str
    fingerprint: Annotated[str | None, Field(description="of the cache, once it is committed")] = (
        None
    )
    request_counts: RequestCounts
    shard_counts: ShardCounts
    progress: JobProgress
    errors: Annotated[list[Fault], Field(description="why the job failed")] = []
    failed_by_code: Annotated[dict[str, int], Field(description="failed pairs by error code")] = {}
    metadata: dict[str, str] = {}
    priority: int = 0
    follows: Annotated[
        str | None, Field(description="the same job, submitted before, whose end is this one's")
    ] = None
    retries: Annotated[str | None, Field(description="the job that this is another try of")] = None
    created_at: int
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    expired_at: int | None = None
    expires_at: Annotated[int | None, Field(description="its deadline")] = None


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


class Event(BaseModel):
    """Something that happened to a job: job.status, job.progress, shard.committed, shard.failed."""

    id: int
    event: str
    data: dict[str, Any]


class ShardStatus(BaseModel):
    name: str
    status: Literal["pending", "committed", "failed"]
    rows: int | None = None
    failed: int | None = None
    code: Annotated[str | None, Field(description="why it failed")] = None


class ShardList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ShardStatus]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class Validation(BaseModel):
    """What a job would do. Predictions are null where no earlier job tells of this reference."""

    object: Literal["validation"] = "validation"
    shards: int
    shards_done: Annotated[int, Field(description="that earlier jobs have put into the cache")]
    source_bytes: Annotated[int, Field(description="of the dataset")]
    pairs: Annotated[int | None, Field(description="where every shard was read before")] = None
    fingerprint: Annotated[str | None, Field(description="of the cache, where it was begun")] = None
    predicted_seconds: float | None = None
    predicted_bytes: Annotated[int | None, Field(description="of the cache")] = None


class CacheSummary(BaseModel):
    """A cache that a job has committed."""

    id: str
    object: Literal["cache"] = "cache"
    fingerprint: str
    uri: str
    job: Annotated[str, Field(description="the last one that committed it")]
    committed_at: int


class CacheList(BaseModel):
    object: Literal["list"] = "list"
    data: list[CacheSummary]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class CachedPair(BaseModel):
    """A row of a cache, with the rank of its similarity (from 0, the lowest)."""

    shard: str
    key: str
    row: int
    status: str
    similarity: float | None = None
    rank: int | None = None


class CachedPairList(BaseModel):
    object: Literal["list"] = "list"
    data: list[CachedPair]
    has_more: bool = False


class Model(BaseModel):
    """What ``reference.model`` may name."""

    id: str
    object: Literal["model"] = "model"
    pretrained: list[str] = []


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]
