"""Prometheus metrics, in base units, with no ids among their labels."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    generate_latest,
)

from rhocache_schemas.cache.documents import ShardOutcome
from rhocache_schemas.job.spec import JobState

REGISTRY = CollectorRegistry()

PAIRS = Counter("rhocache_pairs", "Pairs that were scored", ["outcome"], registry=REGISTRY)
SHARDS = Counter(
    "rhocache_shards", "Shards that were committed or failed", ["outcome"], registry=REGISTRY
)
STAGE_SECONDS = Histogram(
    "rhocache_stage_duration_seconds",
    "What jobs took from one state to the next",
    ["stage"],
    buckets=(1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
    registry=REGISTRY,
)
QUEUE_DEPTH = Gauge("rhocache_queue_depth", "Jobs that wait for a driver", registry=REGISTRY)
JOBS = Gauge("rhocache_jobs", "Jobs in the registry", ["status"], registry=REGISTRY)
LAST_PROGRESS = Gauge(
    "rhocache_last_progress_timestamp_seconds",
    "When a running job last got further; 0 where none runs",
    registry=REGISTRY,
)
HTTP_SECONDS = Histogram(
    "rhocache_http_request_duration_seconds",
    "What requests took to be answered, streams to their end",
    ["method", "route", "status"],
    registry=REGISTRY,
)
Info("rhocache_build", "The software that runs", registry=REGISTRY).info(
    {"version": version("rhocache")}
)


def count_shards(outcomes: Iterable[ShardOutcome]) -> None:
    """Count shards at their end, and their pairs."""
    for outcome in outcomes:
        SHARDS.labels("committed" if outcome.code is None else "failed").inc()
        PAIRS.labels("ok").inc(outcome.rows - outcome.failed)
        PAIRS.labels("failed").inc(outcome.failed)


def exposition(jobs: Mapping[JobState, int], last_progress: Iterable[float]) -> bytes:
    """Return all metrics as Prometheus reads them.

    ``jobs``: how many are in each state. ``last_progress``: of each running one, in Unix seconds.
    """
    for state, count in jobs.items():
        JOBS.labels(state).set(count)
    QUEUE_DEPTH.set(jobs[JobState.VALIDATING] + jobs[JobState.QUEUED])
    LAST_PROGRESS.set(min(last_progress, default=0))
    return generate_latest(REGISTRY)
