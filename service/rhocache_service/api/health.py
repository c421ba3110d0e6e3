"""Probes and metrics: ``/livez``, ``/readyz`` and ``/metrics``."""

import logging
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from rhocache_service.api.auth import ReadsMetrics
from rhocache_service.api.dependencies import InRegistry
from rhocache_service.http.openapi import problems
from rhocache_service.http.problems import ProblemError
from rhocache_service.settings import Settings

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])

_PROBE_BYTES = 1 << 16


@router.get("/livez", summary="Live?")
async def livez() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@router.get("/readyz", summary="Ready?", responses=problems("unavailable"))
def readyz(
    request: Request,
    registry: InRegistry,
    exclude: Annotated[
        list[Literal["ray", "jobs"]],
        Query(description="what may be in trouble: a balancer of replicas asks for neither"),
    ] = [],  # noqa: B006 (FastAPI copies it)
) -> dict[str, str]:
    """Whether the data dir and the registry can be written, Ray answers, and every running job
    gets further."""
    settings: Settings = request.app.state.settings
    pings = [
        ("the data dir can't be written", lambda: _write(settings.data_dir)),
        ("the registry can't be reached", registry.ping),
    ]
    if "ray" not in exclude:
        pings.append(("Ray can't be reached", request.app.state.cluster.ping))
    for trouble, ping in pings:
        try:
            ping()
        except Exception as error:
            log.info("not ready, %s: %s", trouble, " ".join(str(error).split()))
            raise ProblemError("unavailable", trouble) from error
    if "jobs" in exclude:
        return {"status": "ok"}
    limit = settings.wedged_seconds
    now = registry.now()
    wedged = [row.id for row in registry.running() if now - row.moved_at > limit]
    if wedged:
        log.warning("not ready: no progress for %g s of %s", limit, ", ".join(wedged))
        raise ProblemError("unavailable", f"a job has made no progress for {limit:g} seconds")
    return {"status": "ok"}


def _write(folder: Path) -> None:
    """Raises OSError where the disk is full, or over its quota, or read-only."""
    with TemporaryFile(dir=folder) as probe:
        probe.write(bytes(_PROBE_BYTES))
        probe.flush()
        os.fsync(probe.fileno())


@router.get(
    "/metrics",
    response_class=Response,
    summary="Metrics",
    responses=problems("unauthenticated", "forbidden"),
)
def get_metrics(_: ReadsMetrics, request: Request) -> Response:
    """Prometheus metrics."""
    text = generate_latest(request.app.state.metrics)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
