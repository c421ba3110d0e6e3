"""What the registry holds as metrics, looked up when they are asked for."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import OperationalError

from rhocache_service import metrics
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import WAITING


class ServiceMetrics(CollectorRegistry):
    """All metrics of a service: what was counted in this process, and what its registry holds."""

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self.register(metrics.COUNTED)  # pyright: ignore[reportArgumentType] (it collects, which is all)
        self.register(_InRegistry(registry))


class _InRegistry(Collector):
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def describe(self) -> Iterator[Metric]:  # else it would be asked as it is registered
        return iter(())

    def collect(self) -> Iterator[Metric]:
        try:
            jobs = list(_job_gauges(self._registry))
        except OperationalError:
            jobs = []
        up = 1.0 if jobs else 0.0
        yield _gauge("rhocache_registry_up", "Whether the registry's database answers", up)
        yield from jobs


def _job_gauges(registry: Registry) -> Iterator[Metric]:
    counts, running = registry.counts(), registry.running()
    jobs = GaugeMetricFamily("rhocache_jobs", "Jobs in the registry", labels=["status"])
    for state, count in counts.items():
        jobs.add_metric([state], count)
    yield jobs
    depth = sum(counts[state] for state in WAITING)
    yield _gauge("rhocache_queue_depth", "Jobs that wait for a driver", depth)
    yield _gauge(
        "rhocache_oldest_waiting_timestamp_seconds",
        "When the oldest of them was submitted; 0 where none waits",
        registry.waiting_since() or 0.0,
    )
    yield _gauge(
        "rhocache_last_progress_timestamp_seconds",
        "When the running job that has been still the longest got further; 0 where none runs",
        min((row.moved_at for row in running), default=0.0),
    )
    rates = (row.progress["pairs_per_second"] for row in running if row.progress)
    yield _gauge("rhocache_running_pairs_per_second", "Rate of the jobs that run", sum(rates))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)
