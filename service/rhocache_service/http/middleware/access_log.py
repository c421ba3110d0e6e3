"""Gives each request an id; logs and counts each answer."""

import secrets
import time

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rhocache_service import metrics
from rhocache_service.http.addresses import PROBES, path_inside
from rhocache_service.http.problems import REQUEST_ID, BrokenOff

# The methods that metrics tell apart: one that a stranger makes up must not become a label.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

log = structlog.stdlib.get_logger(__name__)


class RequestId:
    """Puts an id into the request's state and its answer's X-Request-Id: logs have it too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        request.state.request_id = f"req_{secrets.token_hex(8)}"

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request.state.request_id
            await send(message)

        await self._app(scope, receive, answer)


class AccessLog:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, started, status = Request(scope), time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except BrokenOff as error:  # the server closes the connection of an answer without an end
            log.info(str(error), request_id=request.state.request_id)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "none")
            method = request.method if request.method in METHODS else "other"
            metrics.HTTP_SECONDS.labels(method, route, str(status)).observe(seconds)
            log_request(request, status, seconds)


def log_request(request: Request, status: int, seconds: float) -> None:
    """Log a line, without the request's headers and query: they may hold keys."""
    quiet = path_inside(request) in PROBES
    level = log.debug if quiet and status < 400 else log.info
    level(
        "request",
        request_id=request.state.request_id,
        method=request.method,
        path=request.url.path,
        status=status,
        milliseconds=round(1000 * seconds, 1),
    )
