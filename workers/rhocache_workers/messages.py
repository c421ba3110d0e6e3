"""What encoders tell the driver, which needs no torch to understand it."""

from dataclasses import dataclass

from rhocache_schemas.fingerprint import Fingerprint


@dataclass(frozen=True, slots=True)
class Description:
    """What an encoder holds. Encoders of one run must hold the same."""

    fingerprint: Fingerprint
    dimension: int
    logit_scale: float
    logit_bias: float | None
    device: str  # ``cpu`` or ``cuda``
    batch_size: int
    software: dict[str, str]  # package -> version
    warning: str | None = None  # of the reference


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A shard that is being encoded."""

    shard: str
    pairs: int  # seen so far
