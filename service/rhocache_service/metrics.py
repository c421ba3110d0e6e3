"""Prometheus metrics, in base units, with no ids among their labels.

Jobs are counted by the replica that leads: sum over replicas. What is looked up in the registry,
by registry/gauges.py, is the same at each.
"""

from collections import Counter as Tally
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Histogram, Info

from rhocache_schemas.cache.documents import Progress, RunTotals
from rhocache_schemas.errors import RhocacheError, RowErrorCode, ShardErrorCode
from rhocache_schemas.job.spec import JobState

COUNTED = CollectorRegistry()

_PAIRS = Counter("rhocache_pairs", "Pairs of committed shards", ["outcome"], registry=COUNTED)
_PAIR_FAILURES = Counter(
    "rhocache_pair_failures", "Pairs that could not be scored", ["code"], registry=COUNTED
)
_PAIRS_LOST = Counter(
    "rhocache_pairs_lost",
    "Pairs that were encoded in vain, as their shard had to be begun again",
    registry=COUNTED,
)
_SHARDS = Counter(
    "rhocache_shards", "Shards that were committed or failed", ["outcome"], registry=COUNTED
)
_SHARD_FAILURES = Counter(
    "rhocache_shard_failures", "Shards that could not be read", ["code"], registry=COUNTED
)
_ENCODER_SECONDS = Counter(
    "rhocache_encoder_seconds", "Seconds that encoders were at work", registry=COUNTED
)
_STAGE_SECONDS = Counter(
    "rhocache_stage_busy_seconds",
    "Seconds of them that a stage was busy, decoding by the mean of its threads",
    ["stage"],
    registry=COUNTED,
)
_STATUS_SECONDS = Histogram(
    "rhocache_job_status_duration_seconds",
    "How long jobs had a status",
    ["status"],
    buckets=(1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
    registry=COUNTED,
)
_ENDED = Counter(
    "rhocache_jobs_ended",
    "Jobs at their end; the code is why they failed",
    ["status", "code"],
    registry=COUNTED,
)
HTTP_SECONDS = Histogram(
    "rhocache_http_request_duration_seconds",
    "What requests took to be answered, streams to their end",
    ["method", "route", "status"],
    registry=COUNTED,
)
Info("rhocache_build", "The software that runs", registry=COUNTED).info(
    {"version": version("rhocache")}
)


def _codes(error: type[RhocacheError]) -> Iterator[str]:
    yield error.code
    for narrower in error.__subclasses__():
        yield from _codes(narrower)


# From the start, since Prometheus sees no increase where a series begins with its first failure.
for _outcome in ("ok", "failed"):
    _PAIRS.labels(_outcome)
for _outcome in ("committed", "failed"):
    _SHARDS.labels(_outcome)
for _code in set(RowErrorCode) - {RowErrorCode.OVER_LIMIT}:
    _PAIR_FAILURES.labels(_code)
for _code in ShardErrorCode:
    _SHARD_FAILURES.labels(_code)
for _code in sorted({*_codes(RhocacheError), "internal"}):
    _ENDED.labels(JobState.FAILED, _code)
for _state in (JobState.COMPLETED, JobState.CANCELLED, JobState.EXPIRED):
    _ENDED.labels(_state, "")


def count_progress(before: Progress | None, now: Progress) -> None:
    """Count what a run has done between two snapshots of its progress."""
    new, old = now.run, RunTotals()
    if before is not None and before.started_at == now.started_at:
        old = before.run
    _PAIRS.labels("ok").inc(max(0, new.pairs_ok - old.pairs_ok))
    _PAIRS_LOST.inc(max(0, new.pairs_lost - old.pairs_lost))
    _SHARDS.labels("committed").inc(max(0, new.shards_committed - old.shards_committed))
    for outcomes, failures, gained in (
        (_PAIRS, _PAIR_FAILURES, Tally(new.pairs_failed) - Tally(old.pairs_failed)),
        (_SHARDS, _SHARD_FAILURES, Tally(new.shards_failed) - Tally(old.shards_failed)),
    ):
        outcomes.labels("failed").inc(gained.total())
        for code, count in gained.items():
            failures.labels(code).inc(count)
    _ENCODER_SECONDS.inc(max(0.0, new.encoder_seconds - old.encoder_seconds))
    for stage, seconds in new.stage_seconds.items():
        _STAGE_SECONDS.labels(stage).inc(max(0.0, seconds - old.stage_seconds.get(stage, 0.0)))


def count_move(left: JobState, seconds: float, entered: JobState, code: str | None) -> None:
    """Count a job's move from a status that it had for some seconds, with the code of a fault."""
    _STATUS_SECONDS.labels(left).observe(max(0.0, seconds))  # a clock may have been set back
    if entered.terminal:
        _ENDED.labels(entered, code or "").inc()
