"""Prometheus metrics, in base units, with no ids among their labels."""

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

REGISTRY = CollectorRegistry()

PAIRS = Counter("rhocache_pairs", "Pairs that were scored", ["outcome"], registry=REGISTRY)
SHARDS = Counter("rhocache_shards", "Shards that were settled", ["outcome"], registry=REGISTRY)
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
