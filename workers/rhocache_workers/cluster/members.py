"""The encoders of a run, the shards that they have, and how fast they are."""

import time
from dataclasses import dataclass, field
from typing import Any

from rhocache_schemas.dataset.shards import Shard
from rhocache_workers.cluster.placement import Place

_SPARE_SECONDS = 2.0  # before a node is gone: a shard that would be done later than that is not


@dataclass
class Pace:
    """What shards took that were done."""

    seconds: float = 0.0
    bytes: int = 0

    def add(self, seconds: float, size: int) -> None:
        self.seconds += seconds
        self.bytes += size


@dataclass(eq=False)
class Member:
    """An encoder of a run."""

    actor: Any
    place: Place
    started: Any  # a ref
    asked_at: float
    ready: bool = False  # it has loaded
    node: str | None = None  # its id, once it has
    holds: int = 0  # shards
    isolates: bool = False  # the one that it holds
    leaves: bool = False  # with its node: it gets no other shard
    pace: Pace = field(default_factory=Pace)


@dataclass(eq=False)
class Task:
    """A shard that an encoder has."""

    member: Member
    shard: Shard
    begun_at: float | None = None  # when it was first heard of: another may have been before it

    def fits_in(self, seconds: float, others: Pace) -> bool:
        """Whether it will be done in time, by the pace of what its encoder has done, or ``others``.

        Where nothing was done yet, it is tried.
        """
        if self.begun_at is None:
            return False
        pace = self.member.pace if self.member.pace.bytes else others
        whole = pace.seconds * self.shard.size / (pace.bytes or 1)
        left = whole - (time.monotonic() - self.begun_at)
        return max(0.0, left) <= seconds - _SPARE_SECONDS
