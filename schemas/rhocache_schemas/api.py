"""The bodies that the service sends, and the scopes of its API keys, shared with its client."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Annotated, Any, Generic, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, Field, GetJsonSchemaHandler, PlainValidator, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rhocache_schemas.cache.documents import Fault, Step
from rhocache_schemas.documents import Strict
from rhocache_schemas.job.kinds import DEFAULT, KINDS, AnySpec, by_kind, either, read_spec
from rhocache_schemas.job.spec import JobSpec, JobState
from rhocache_schemas.reference import Dtype

# What an API key may permit.
Scope = Literal["jobs:read", "jobs:write", "caches:read", "caches:write", "metrics:read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


Item = TypeVar("Item", bound=BaseModel)


class Page(BaseModel, Generic[Item]):
    """A part of a list. The next one is asked for with ``last_id`` as ``after``.

    The ids are those of its items, the names of shards, and of pairs and errors their places in
    the list, counted from 1.
    """

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False

    @classmethod
    def of(cls, found: Sequence[Item], limit: int, ids: Iterable[str]) -> Self:
        """Return the page of the first ``limit`` items: ask for one more to know of others."""
        data = list(found[:limit])
        named = [name for name, _ in zip(ids, data, strict=False)]
        first, last = (named[0], named[-1]) if named else (None, None)
        return cls(data=data, first_id=first, last_id=last, has_more=len(found) > limit)


def places(after: int) -> Iterator[str]:
    """Yield the ids of what has none, behind as many items: places in the list, from 1."""
    return map(str, count(after + 1))


class RequestCounts(BaseModel):
    """Of pairs. ``total`` is null until every shard has been read."""

    total: int | None = None
    completed: int = 0
    failed: int = 0


class ShardCounts(BaseModel):
    total: int | None = None
    committed: int = 0
    failed: int = 0


class JobProgress(BaseModel):
    pairs_per_second: float = 0.0
    seconds_left: float | None = None
    limited_by: Annotated[
        str | None, Field(description="the stage that keeps the others waiting, and how much")
    ] = None
    pairs_reused: Annotated[
        int, Field(description="of its committed shards, pairs whose rows other caches had")
    ] = 0
    steps: Annotated[
        list[Step], Field(description="what its driver did so far, and does now; in their order")
    ] = []


class Submission(Strict):
    """How the service is to treat a job: what SUBMISSIONS add to the spec of each kind."""

    priority: Annotated[
        int, Field(ge=-100, le=100, description="Jobs of a higher one start first.")
    ] = 0
    expires_after: Annotated[
        int | None,
        Field(
            ge=1,
            le=31_536_000,
            description="Seconds from now until the job expires; default: never.",
        ),
    ] = None
    webhook: Annotated[
        str | None,
        Field(max_length=2048, description="URL that is told when the job has come to its end."),
    ] = None

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Ask for the kind, but of the one that a body without a kind is of."""
        made = handler(core)
        schema = handler.resolve_ref_schema(made)
        if schema.get("properties", {}).get("kind", {}).get("default", DEFAULT) != DEFAULT:
            schema["required"] = ["kind", *schema.get("required", [])]
        return made

    def job_spec(self) -> JobSpec:
        return read_spec(self.model_dump(exclude=set(Submission.model_fields)))


def _submission(kind: type[JobSpec]) -> type[Submission]:
    bases: Any = (Submission, kind)  # the spec's fields come first
    name = f"{kind.__name__.removesuffix('Spec')}Submission"
    made: Any = create_model(name, __base__=bases, __doc__=kind.__doc__)
    return made


SUBMISSIONS = {name: _submission(kind) for name, kind in KINDS.items()}
read_submission = by_kind(SUBMISSIONS)
AnySubmission = Annotated[
    Submission,
    PlainValidator(read_submission, json_schema_input_type=either(SUBMISSIONS.values())),
]


class Job(BaseModel):
    """Field names as in the OpenAI Batch API; times are Unix seconds."""

    id: str
    object: Literal["job"] = "job"
    status: JobState
    spec: AnySpec
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
    webhook: Annotated[str | None, Field(description="what is told of its end")] = None
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


class JobList(Page[Job]):
    pass


class PairError(BaseModel):
    """A pair, or with no key a whole shard, that failed."""

    shard: str
    key: str | None = None
    row: int | None = None
    code: str
    detail: str | None = None


class PairErrorList(Page[PairError]):
    pass


class JobLog(BaseModel):
    """The last lines that a job's driver has printed; none before it is started."""

    object: Literal["log"] = "log"
    lines: list[str]


class ShardStatus(BaseModel):
    name: str
    status: Literal["pending", "in_progress", "committed", "failed"]
    rows: int | None = None
    failed: int | None = None
    code: Annotated[str | None, Field(description="why it failed")] = None


class ShardList(Page[ShardStatus]):
    pass


class Range(BaseModel):
    low: float
    high: float


class Validation(BaseModel):
    """What a job would do. What neither its spec nor an earlier job tells is null."""

    object: Literal["validation"] = "validation"
    shards: int
    shards_committed: Annotated[int, Field(description="that earlier jobs have put into the cache")]
    source_bytes: Annotated[int, Field(description="of the dataset")]
    pairs: Annotated[int | None, Field(description="where every shard was read before")] = None
    fingerprint: Annotated[str | None, Field(description="of the cache, where it was begun")] = None
    dimension: Annotated[
        int | None, Field(description="of the embeddings; null where only the weights tell it")
    ] = None
    dtype: Annotated[Dtype | None, Field(description="of the embeddings")] = None
    bytes_per_pair: Annotated[
        int | None, Field(description="of the cache, by dimension and dtype; without the key")
    ] = None
    predicted_pairs: Annotated[
        Range | None, Field(description="of shards that were not read yet, by a part of three")
    ] = None
    predicted_seconds: Annotated[
        Range | None, Field(description="at the rates that jobs with this reference had")
    ] = None
    predicted_bytes: Annotated[Range | None, Field(description="of the cache")] = None


class CacheSummary(BaseModel):
    """A cache that a job has committed."""

    id: str
    object: Literal["cache"] = "cache"
    fingerprint: str
    uri: str
    job: Annotated[str, Field(description="the last one that committed it")]
    committed_at: int
    expires_at: Annotated[
        int | None, Field(description="Unix second from which on it is deleted; null: never")
    ] = None


class CacheChange(BaseModel, extra="forbid"):
    """What can be changed of a cache."""

    expires_at: Annotated[
        int | None,
        # Neither days nor milliseconds.
        Field(
            ge=10**9, le=10**11, description="Unix second from which on it is deleted; null: never"
        ),
    ]


class CacheList(Page[CacheSummary]):
    pass


class CachedPair(BaseModel):
    """A row of a cache, with the rank of its similarity (from 0, the lowest)."""

    shard: str
    key: str
    row: int
    status: str
    similarity: float | None = None
    rank: int | None = None


class CachedPairList(Page[CachedPair]):
    shards: Annotated[
        int | None, Field(description="whose pairs are ranked: all, or some of a large cache's")
    ] = None


class Model(BaseModel):
    """What ``reference.model`` may name."""

    id: str
    object: Literal["model"] = "model"
    dimension: Annotated[int, Field(description="of its embeddings")]
    pretrained: list[str] = []


class ModelList(Page[Model]):
    pass
