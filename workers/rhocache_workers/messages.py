"""Messages from encoders to the driver, free of torch."""

from collections import Counter
from dataclasses import dataclass, replace

from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.cache.index import IndexRow
from rhocache_schemas.cache.shard_file import Totals
from rhocache_schemas.cache.summary import ShardSummary
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import RowErrorCode
from rhocache_workers.stage_times import Stages

BatchSizes = dict[str, dict[str, int]]  # what ``auto`` means: of a cache -> on a device


@dataclass(frozen=True, slots=True)
class Description:
    """What an encoder holds. Encoders of one run must hold the same."""

    fingerprint: Fingerprint
    dimension: int
    logit_scale: float | None
    logit_bias: float | None
    device: str  # ``cpu`` or ``cuda``
    batch_size: int
    software: dict[str, str]  # package -> version
    warning: str | None = None  # of the reference
    also: tuple["Description", ...] = ()  # of the job's other references

    @property
    def each(self) -> "list[Description]":
        return [replace(self, also=()), *self.also]


@dataclass(frozen=True, slots=True)
class ShardInProgress:
    """A shard that is being encoded."""

    shard: str
    pairs: int  # seen so far; 0 where it is to be begun again


@dataclass(frozen=True, slots=True)
class CommittedShard:
    index: IndexRow
    failed_by_code: Counter[str]
    summary: ShardSummary | None = None  # None of format 1
    stages: Stages | None = None  # where this run encoded it
    encoder: str | None = None  # who did, as in HOST:PROCESS
    reused: int = 0  # of its rows, those that this run took from other caches
    also: tuple["CommittedShard", ...] = ()  # the same shard in the caches of other references

    @property
    def each(self) -> "list[CommittedShard]":
        return [replace(self, also=()), *self.also]

    @property
    def encoded(self) -> int:
        """How many of its first pairs were to be encoded: all, but for a job with a limit."""
        return self.index.rows - self.failed_by_code[RowErrorCode.OVER_LIMIT]

    @property
    def failures(self) -> Counter[str]:
        """Of those that were to be encoded, by code."""
        found = self.failed_by_code.copy()
        del found[RowErrorCode.OVER_LIMIT]
        return found

    @property
    def retryable(self) -> bool:
        """Whether it has rows that another try may mend."""
        return any(RowErrorCode(code).retryable for code in self.failed_by_code)


def committed_shard(
    shard: Shard,
    totals: Totals,
    source_sha256: str,
    stages: Stages | None = None,
    encoder: str | None = None,
    reused: int = 0,
) -> CommittedShard:
    """Sum up a shard file."""
    failed = totals.failed_by_code.total()
    return CommittedShard(
        IndexRow(
            name=shard.name,
            rows=totals.rows,
            ok=totals.rows - failed,
            failed=failed,
            bytes=totals.size,
            source_size=shard.size,
            source_mtime_ns=shard.mtime_ns,
            source_sha256=source_sha256,
            content_sha256=totals.content_sha256,
            file_sha256=totals.file_sha256,
        ),
        totals.failed_by_code,
        totals.summary,
        stages,
        encoder,
        reused,
    )
