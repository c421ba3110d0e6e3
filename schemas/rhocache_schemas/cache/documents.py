"""The JSON documents that lie in a cache beside its Parquet files."""

import hashlib
import time
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AliasChoices, Field

from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.cache.summary import Count, Rounding
from rhocache_schemas.dataset.source import OF_ROWS, TARS, Kind, Source
from rhocache_schemas.documents import CacheDocument, Document, Strict
from rhocache_schemas.errors import InvalidInput, ShardError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import Dtype, ReferenceSpec
from rhocache_schemas.text import tell

Told = Annotated[str, AfterValidator(tell)]  # kept and shown: no secret may be in it
Phase = Literal["planning", "encoding", "finalizing", "completed", "failed", "cancelled"]


class Plan(CacheDocument):
    """``plan.json``: what the cache was begun for. Written once, never changed."""

    spec: ScoreSpec
    fingerprint: Fingerprint
    shards_sha256: str  # over the sorted shard names
    # Device -> batch size that it was found to suit: a run that goes on keeps to it.
    batch_sizes: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    created_at: float  # Unix seconds

    @classmethod
    def begin(
        cls,
        spec: ScoreSpec,
        fingerprint: Fingerprint,
        shards: Iterable[str],
        batch_sizes: dict[str, int],
    ) -> Self:
        digest = hashlib.sha256("\n".join(sorted(shards)).encode()).hexdigest()
        return cls(
            spec=spec,
            fingerprint=fingerprint,
            shards_sha256=digest,
            batch_sizes=batch_sizes,
            created_at=time.time(),
        )


class ShardFailure(Document):
    """``failures/<shard>.json``: a shard that could not be read."""

    shard: str
    code: str
    detail: Told
    failed_at: float  # Unix seconds

    @classmethod
    def of(cls, error: ShardError) -> Self:
        return cls(shard=error.shard, code=error.code, detail=error.detail, failed_at=time.time())


class LeaseHolder(Document):
    """``lease.json``: the run that is at work on the cache. There only while it is."""

    run: str
    host: str
    pid: int
    job: str | None = None  # the service's id, when a service started the run
    renewals: Count = 0


class Fault(Strict):
    """Why a run ended without a manifest."""

    code: str
    detail: Told


class ShardOutcome(Strict, extra="ignore"):
    """A shard at its end in this run: committed with its rows, or failed, with the code of why."""

    shard: str
    rows: Count = 0
    failed: Count = 0
    code: str | None = None
    seconds: float | None = None  # that it took
    encoder: str | None = None  # who encoded it


class Step(Strict, extra="ignore"):
    """Something that a run does before, while or after it encodes, as people are told of it."""

    name: Annotated[str, Field(description="as in starting Ray, or loading the reference")]
    started_at: Annotated[float, Field(description="Unix seconds")]
    ended_at: Annotated[float | None, Field(description="null while it goes on")] = None


class RunTotals(Strict, extra="ignore"):
    """What one run has done so far, whatever the cache held before."""

    pairs_ok: Count = 0
    pairs_failed: dict[str, Count] = Field(default_factory=dict[str, Count])  # code -> pairs
    pairs_reused: Count = 0  # of those that are ok, rows that other caches had
    pairs_lost: Count = 0  # encoded in vain, as their shard had to be begun again
    shards_committed: Count = 0
    shards_failed: dict[str, Count] = Field(default_factory=dict[str, Count])  # code -> shards
    # Seconds that its encoders were at work, together, and stage -> those that it was busy.
    encoder_seconds: Annotated[float, Field(ge=0)] = 0.0
    stage_seconds: dict[str, float] = Field(default_factory=dict[str, float])


class Progress(Document, extra="ignore"):
    """``progress.json``: how far the newest run is. Advisory; the shard files are the truth.

    What a newer driver adds is passed over, as services and drivers are not upgraded at once.
    """

    job: str | None = None  # the service's id, when a service started the run
    phase: Phase
    steps: list[Step] = Field(default_factory=list[Step])  # of this run, in their order
    shards_total: Count = 0
    # Files that are there, those of earlier runs included.
    shards_committed: Count = Field(
        0, validation_alias=AliasChoices("shards_committed", "shards_done")
    )
    shards_failed: Count = 0
    pairs_done: Count = 0  # rows, ok or not; of the shards that are being encoded what is seen
    pairs_failed: Count = 0  # of the committed shards
    failed_by_code: dict[str, Count] = Field(default_factory=dict[str, Count])  # of them
    pairs_per_second: float = 0.0  # of this run
    seconds_left: float | None = None  # None while no rate is known
    limited_by: str | None = None  # the stage that keeps the others waiting, and how much
    started_at: float = 0.0  # Unix seconds, of this run
    run: RunTotals = RunTotals()
    # Shards that this run has committed, and that have failed in it.
    shards_ended: Count = Field(0, validation_alias=AliasChoices("shards_ended", "settled"))
    shards_in_progress: list[str] = Field(default_factory=list[str])  # by name
    # The newest of those that have ended, in their order.
    recent: list[ShardOutcome] = Field(default_factory=list[ShardOutcome])
    updated_at: float  # Unix seconds
    fault: Fault | None = None


class Origin(Strict):
    """What a cache was made from that no run has encoded."""

    how: Literal["converted", "merged", "imported"]
    sources: list[str]  # caches, or the folder of others' embeddings
    sources_sha256: list[str]  # of the caches' manifests, or of the names and bytes of the files
    format: str  # ``cache``, or whose layout the embeddings had
    dtype: Dtype  # of the sources
    rounding: Rounding | None = None  # that the sources stated
    weights_verified: bool = True  # whether the reference that is named is known to be theirs


class Manifest(CacheDocument):
    """``manifest.json``: the commit point. A cache without it is not complete."""

    fingerprint: Fingerprint
    fingerprint_sha256: str
    reference: ReferenceSpec
    reference_sha256: str | None = None  # of its files, or its name where open_clip finds it
    dataset: str
    format: Kind = TARS  # of the dataset
    images: str | None = None  # folder that its paths start from, if it is not its own
    rows: Count
    ok: Count
    failed: Count
    failed_by_code: dict[str, Count]
    shards: Count
    failed_shards: dict[str, str]  # shard name -> code
    dimension: Annotated[int, Field(ge=1)]  # of the embeddings
    # Of the reference: the inverse of its temperature; None where nobody has told.
    logit_scale: float | None
    logit_bias: float | None = None
    index_sha256: str
    summary_sha256: str | None = None  # None in format 1
    rounding: Rounding | None = None  # None where nobody has measured it
    origin: Origin | None = None  # None where a run has made it of its dataset
    batch_size: Annotated[int, Field(ge=1)]
    software: dict[str, str]  # package -> version, of the run that committed
    created_at: float  # Unix seconds

    @property
    def known_logit_scale(self) -> float:
        """The reference's logit scale. Raises InvalidInput where nobody has told it."""
        if self.logit_scale is None:
            raise InvalidInput(
                f"the cache of {self.dataset} does not say its reference's logit scale: give the "
                "temperature, or import its embeddings with --logit-scale"
            )
        return self.logit_scale

    @property
    def source(self) -> Source:
        """Where the pairs are, as they were read."""
        of_rows = {name: getattr(self.fingerprint, name) for name in OF_ROWS}
        return Source(dataset=self.dataset, images=self.images, **of_rows)

    @property
    def total_rounding(self) -> Rounding | None:
        """At most so far are similarities from those of exact embeddings; None where unknown."""
        before = self.origin and self.origin.rounding
        if self.origin is None or (self.origin.how == "merged" and before is None):
            return self.rounding
        return self.rounding.plus(before) if self.rounding and before else None
