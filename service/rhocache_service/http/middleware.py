"""What every request passes first: a name for the logs, and what can't be an honest request."""

import asyncio
import logging
import secrets
import time
from typing import Self

import anyio
from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rhocache_schemas.abandonment import until
from rhocache_service import metrics
from rhocache_service.http import hosts, root_paths
from rhocache_service.http.access_log import log_request
from rhocache_service.http.problems import REQUEST_ID, BrokenOff, ProblemError, problem_response

log = logging.getLogger(__name__)

# The methods that metrics tell apart: one that a stranger makes up must not become a label.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
FORMS = ("/sign-in", "/sign-out")  # what a page sends without a script
# Open under any name: a kubelet and Prometheus ask for a pod's address.
PROBES = ("/livez", "/readyz", "/metrics")

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

    def __init__(self, app: ASGIApp, allowed: list[str], most_bytes: int) -> None:
        self._app = app
        self._allowed = allowed
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
                if "location" in headers:  # a browser may know the service under another name
                    here = f"{request.url.scheme}://{request.url.netloc}"
                    headers["location"] = headers["location"].removeprefix(here)
            await send(message)

        app = self._head if request.method == "HEAD" else self._app
        try:
            body = await self._admit(request)
            async with _Listener(body, receive) as listener:
                with until(listener.gone.is_set):
                    await app(scope, listener.receive, answer)
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

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as to GET, up to the body: a stream's would not end, a file's be read in vain."""
        asked = {**scope, "method": "GET"}
        with anyio.CancelScope() as rest:

            async def start(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(message)
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    rest.cancel()

            await self._app(asked, receive, start)
        scope["route"] = asked.get("route")

    async def _admit(self, request: Request) -> bytes:
        """Give the body. Raises ProblemError."""
        host = request.headers.get("host", "")
        reads = request.method in ("GET", "HEAD", "OPTIONS")
        if not (reads and root_paths.inside(request) in PROBES) and not self._is_ours(host):
            detail = f"Host {host!r} is not one that this service answers to; see --allow-host"
            raise ProblemError("forbidden", detail)
        if reads:
            return b""
        origin = request.headers.get("origin")
        if origin is not None and not self._is_own_page(request, origin):
            raise ProblemError("forbidden", f"a page of {origin!r} may not do this")
        body = await self._read(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        form = root_paths.inside(request) in FORMS and kind == "application/x-www-form-urlencoded"
        if body and kind != "application/json" and not form:
            raise ProblemError("unsupported-media-type", f"the body is {kind or 'of no type'!r}")
        return body

    def _is_ours(self, host: str) -> bool:
        return any(hosts.matches(host, each) for each in (*hosts.LOOPBACK, *self._allowed))

    def _is_own_page(self, request: Request, origin: str) -> bool:
        """Whether a request comes from a page of the service, also where a proxy changed the Host.

        Over HTTPS and on loopback browsers tell by Sec-Fetch-Site, which no page can set. Else the
        Origin has the Host, or a name that the service was given as its own.
        """
        if request.headers.get("sec-fetch-site") == "same-origin":
            return True
        host = request.headers.get("host", "")
        return hosts.same(origin, host) or any(
            hosts.names(each, origin, host) for each in self._allowed
        )

    async def _read(self, request: Request) -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._most_bytes:
                raise ProblemError(
                    "payload-too-large", f"a body may have at most {self._most_bytes} bytes"
                )
        return bytes(body)


class _Listener:
    """Gives the application a body that was read, and knows when the client has gone.

    It listens all the time: work in a thread asks ``gone`` between two steps.
    """

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._first: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self._receive = receive
        self.gone = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.cancel()

    async def receive(self) -> Message:
        if (first := self._first) is not None:
            self._first = None
            return first
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone.set()
