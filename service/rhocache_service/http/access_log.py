"""The access log: a line for every request that was answered."""

import structlog
from fastapi import Request

from rhocache_service.http import root_paths

_QUIET = {"/livez", "/readyz", "/metrics"}  # asked for every few seconds

log = structlog.stdlib.get_logger(__name__)


def log_request(request: Request, status: int, seconds: float) -> None:
    """Never its headers or query: they may hold keys."""
    quiet = root_paths.inside(request) in _QUIET
    level = log.debug if quiet and status < 400 else log.info
    level(
        "request",
        request_id=request.state.request_id,
        method=request.method,
        path=request.url.path,
        status=status,
        milliseconds=round(1000 * seconds, 1),
    )
