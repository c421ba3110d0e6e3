"""What jobs of every kind are asked for, and the states that a job goes through."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from rhocache_schemas.documents import Document
from rhocache_schemas.errors import JobStateConflict


@dataclass(frozen=True, slots=True)
class Ask:
    """How commands and forms ask for a field, where its name and type do not say it."""

    argument: bool = False  # of the command: by its place, and not an option
    option: str = ""  # of the command, where it is not called as the field is
    metavar: str = ""  # what stands for a value in the command's help


# Marks a string that names a place: a relative path is spelled out before it goes to another
# process, and a service asks whether it lies under an allowed root.
LOCATION = object()
Location = Annotated[str, Field(min_length=1), LOCATION]
# Marks one of a file that runs code of its author's, which a service refuses by default.
CODE = object()
Code = Annotated[Location, CODE]
Output = Annotated[Location, Ask(option="out")]


class JobSpec(Document):
    """What a job is asked to do. Data only: what names code is a ``Code``, and nothing else can.

    Each kind of jobs has a class of its own (rhocache_schemas.job.kinds). Its fields' types,
    bounds, defaults and descriptions are what the REST API, commands and forms are made from
    (rhocache_schemas.job.fields).
    """

    kind: Any  # of each class the Literal of its name, which is also its default
    output: Annotated[Output, Field(description="Folder to write: a path or a URI.")]
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
        Field(max_length=16, default_factory=dict, description="A note that the job keeps."),
    ]

    @property
    def outputs(self) -> list[str]:
        """Every folder that the job writes, its own first."""
        return [self.output]


class JobState(StrEnum):
    VALIDATING = "validating"  # accepted; dataset and locations are being looked at
    QUEUED = "queued"  # waits for its turn
    IN_PROGRESS = "in_progress"  # its driver runs in Ray
    FINALIZING = "finalizing"  # every shard has ended; the index and manifest are being written
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
    """Return ``new`` if a job in state ``current`` may enter it.

    Raises JobStateConflict otherwise.
    """
    if new not in TRANSITIONS[current]:
        raise JobStateConflict(f"job {job} is {current} and can't become {new}")
    return new
