"""Scoring a dataset: plan, let encoders pull shards, commit."""

from collections.abc import Callable
from dataclasses import dataclass

from rhocache_schemas.job import JobSpec
from rhocache_schemas.records import Progress


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """What a finished run left in its cache. ``dataclasses.asdict`` is the ``--json`` object."""

    cache: str
    rows: int
    ok: int
    failed: int
    shards: int  # in the cache
    failed_shards: int
    seconds: float  # of this run
    pairs_per_second: float  # of this run's encoding; 0 when nothing was left to encode
    fingerprint: str  # SHA-256 digest


def score(
    spec: JobSpec,
    *,
    ray_address: str | None = None,
    job: str | None = None,
    roots: list[str] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> ScoreSummary:
    """Score ``spec.dataset`` with ``spec.reference`` into the cache ``spec.output``."""
    raise NotImplementedError
