"""What a job is asked to do, and the states that it goes through."""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rhocache_schemas.documents import Document
from rhocache_schemas.errors import JobStateConflict
from rhocache_schemas.reference import ReferenceSpec

Dtype = Literal["float16", "float32"]


class JobSpec(Document):
    """Score a dataset with a reference into a cache. Data only: nothing here can name code."""

    dataset: Annotated[
        str, Field(min_length=1, description="folder, brace pattern or one tar; a path or a URI")
    ]
    output: Annotated[str, Field(min_length=1, description="the cache's folder; a path or a URI")]
    reference: ReferenceSpec
    shards: Annotated[
        str | None,
        Field(max_length=4096, description="glob that shard names must match; null takes all"),
    ] = None
    caption_field: Annotated[
        str | None, Field(description="field of KEY.json to take captions from, instead of KEY.txt")
    ] = None
    dtype: Annotated[Dtype, Field(description="type of the stored embeddings")] = "float16"
    batch_size: Annotated[int, Field(ge=1, le=65536)] | Literal["auto"] = "auto"
    workers: Annotated[
        int | None, Field(ge=1, le=4096, description="encoders; null: one a GPU, or one a machine")
    ] = None
    remote_decoders: Annotated[
        int | None,
        Field(
            ge=0,
            le=4096,
            description="cores elsewhere in the cluster that decode images for each encoder; "
            "null: as many as a GPU needs beyond those of its own machine",
        ),
    ] = None
    error_budget: Annotated[
        float,
        Field(ge=0, le=1, description="largest share of pairs, and of shards, that may fail"),
    ] = 1.0
    retry_failed: Annotated[
        bool,
        Field(description="encode shards again that have rows which another try may mend"),
    ] = False
    prune: Annotated[
        bool, Field(description="drop shards from the cache that are gone from the dataset")
    ] = False
    replace: Annotated[
        bool,
        Field(
            description="give up what the output holds of another dataset or reference, and "
            "everything else that this job does not score"
        ),
    ] = False
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
        Field(max_length=16, default_factory=dict),
    ]


class JobOrder(Document):
    """``job.json`` in a driver's working folder: what a service asks it to do."""

    FILE: ClassVar = "job.json"

    job: Annotated[str, Field(description="the service's id")]
    start: Annotated[int, Field(ge=1, description="which of the job's drivers this is for")]
    spec: JobSpec
    roots: Annotated[list[str], Field(description="places that the job may name")]


class JobState(StrEnum):
    VALIDATING = "validating"  # accepted; dataset and locations are being looked at
    QUEUED = "queued"  # waits for its turn
    IN_PROGRESS = "in_progress"  # its driver runs in Ray
    FINALIZING = "finalizing"  # every shard is settled; the index and manifest are being written
    COMPLETED = "completed"  # the manifest is committed
    FAILED = "failed"
    CANCELLING = "cancelling"  # asked to stop; committed shards stay
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # its deadline passed; committed shards stay

    @property
    def terminal(self) -> bool:
        return not TRANSITIONS[self]


_WITHOUT_DRIVER = {JobState.FAILED, JobState.CANCELLING, JobState.EXPIRED}

TRANSITIONS: dict[JobState, set[JobState]] = {
    JobState.VALIDATING: {JobState.QUEUED, *_WITHOUT_DRIVER},
    JobState.QUEUED: {JobState.IN_PROGRESS, *_WITHOUT_DRIVER},
    JobState.IN_PROGRESS: {JobState.FINALIZING, JobState.FAILED, JobState.CANCELLING},
    JobState.FINALIZING: {JobState.COMPLETED, JobState.FAILED},
    # A driver that was asked to stop, by a user or by the deadline, may have died in that moment.
    JobState.CANCELLING: {JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED},
    JobState.COMPLETED: set(),
    JobState.FAILED: set(),
    JobState.CANCELLED: set(),
    JobState.EXPIRED: set(),
}


def transition(job: str, current: JobState, new: JobState) -> JobState:
    """Give ``new`` if a job in state ``current`` may enter it.

    Raises JobStateConflict otherwise.
    """
    if new not in TRANSITIONS[current]:
        raise JobStateConflict(f"job {job} is {current} and can't become {new}")
    return new
