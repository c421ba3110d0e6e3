"""Whether the service lives, is ready, and how it does."""

import logging
import time

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from rhocache_schemas.job import JobState
from rhocache_schemas.records import Progress
from rhocache_service import metrics
from rhocache_service.auth import ReadsMetrics
from rhocache_service.dependencies import InRegistry
from rhocache_service.problems import ProblemError
from rhocache_service.registry import Registry

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Live?")
def livez() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@router.get("/readyz", summary="Ready?")
def readyz(request: Request, registry: InRegistry) -> dict[str, str]:
    """Whether the registry and Ray can be reached, and every running job gets further."""
    for name, ping in (("the registry", registry.ping), ("Ray", request.app.state.cluster.ping)):
        try:
            ping()
        except Exception as error:
            log.info("not ready, %s: %s", name, error)
            raise ProblemError("unavailable", f"{name} can't be reached") from error
    limit = request.app.state.settings.wedged_seconds
    wedged = [job for job, then in last_progress(registry).items() if time.time() - then > limit]
    if wedged:
        log.warning("not ready: no progress for %g s of %s", limit, ", ".join(wedged))
        raise ProblemError("unavailable", f"a job has made no progress for {limit:g} seconds")
    return {"status": "ok"}


@router.get("/metrics", response_class=Response, summary="Metrics")
def show_metrics(_: ReadsMetrics, registry: InRegistry) -> Response:
    """Prometheus metrics."""
    counts = registry.counts()
    for state, count in counts.items():
        metrics.JOBS.labels(state).set(count)
    metrics.QUEUE_DEPTH.set(counts[JobState.VALIDATING] + counts[JobState.QUEUED])
    metrics.LAST_PROGRESS.set(min(last_progress(registry).values(), default=0))
    return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)


def last_progress(registry: Registry) -> dict[str, float]:
    """Running job -> when its driver last said that it got further, or was started."""
    found: dict[str, float] = {}
    for row in registry.running():
        progress = Progress.model_validate(row.progress) if row.progress else None
        found[row.id] = max(row.started_at, progress.updated_at if progress else 0.0)
    return found
