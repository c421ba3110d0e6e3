"""What every request passes first: a name for the logs, and what can't be an honest request."""

import logging
import secrets
import time
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rhocache_service import metrics
from rhocache_service.logs import log_request
from rhocache_service.problems import REQUEST_ID, BrokenOff, ProblemError, problem_response
from rhocache_service.settings import LOOPBACK

log = logging.getLogger(__name__)

# The methods that metrics tell apart: one that a stranger makes up must not become a label.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
FORMS = ("/sign-in", "/sign-out")  # what a page sends without a script

SECURITY_HEADERS = {
    # Scripts, styles and pictures of our own only, and none written into a page: what a dataset
    # says can't become one.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Gate:
    """Middleware.

    A page elsewhere can make a browser send requests to a loopback address under a name of its own
    (DNS rebinding); the Host header gives that away, and Origin gives away a page's own requests.
    """

    def __init__(self, app: ASGIApp, hosts: list[str], most_bytes: int) -> None:
        self._app = app
        self._hosts = {host.lower() for host in (*LOOPBACK, *hosts)}
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request = Request(scope, receive)
        request.state.request_id = f"req_{secrets.token_hex(8)}"
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request.state.request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            body = await self._admit(request)
            await self._app(scope, body or receive, answer)
        except ProblemError as error:
            await problem_response(request, error)(scope, receive, answer)
        except BrokenOff as error:  # the server closes the connection of an answer without an end
            log.info("request %s: %s", request.state.request_id, error)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "none")
            method = request.method if request.method in METHODS else "other"
            metrics.HTTP_SECONDS.labels(method, route, str(status)).observe(seconds)
            log_request(request, status, seconds)

    async def _admit(self, request: Request) -> Receive | None:
        """Give the body, read, where there is one. Raises ProblemError."""
        name = _name(request.headers.get("host", ""))
        if name not in self._hosts:
            detail = f"Host {name!r} is not one that this service answers to; see --allow-host"
            raise ProblemError("forbidden", detail)
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return None
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise ProblemError("forbidden", f"a page of {origin!r} may not do this")
        body = await self._read(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        form = request.url.path in FORMS and kind == "application/x-www-form-urlencoded"
        if body and kind != "application/json" and not form:
            raise ProblemError("unsupported-media-type", f"the body is {kind or 'of no type'!r}")
        return _replay(body, request.receive)

    async def _read(self, request: Request) -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._most_bytes:
                raise ProblemError(
                    "payload-too-large", f"a body may have at most {self._most_bytes} bytes"
                )
        return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()  # that the client has gone
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _name(host: str) -> str:
    """The Host header without its port: ``[::1]:80`` is ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
