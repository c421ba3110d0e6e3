"""What every request passes first: a name for the logs, and what can't be an honest request."""

import asyncio
import secrets
import time
from typing import Self
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rhocache_schemas.patience import until
from rhocache_service import metrics
from rhocache_service.logs import log_request
from rhocache_service.problems import REQUEST_ID, ProblemError, problem_response
from rhocache_service.settings import LOOPBACK

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
            async with _Listener(body, receive) as listener:
                with until(listener.gone.is_set):
                    await self._app(scope, listener.receive, answer)
        except ProblemError as error:
            await problem_response(request, error)(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "none")
            metrics.HTTP_SECONDS.labels(request.method, route, str(status)).observe(seconds)
            log_request(request, status, seconds)

    async def _admit(self, request: Request) -> bytes:
        """Give the body. Raises ProblemError."""
        name = _name(request.headers.get("host", ""))
        if name not in self._hosts:
            detail = f"Host {name!r} is not one that this service answers to; see --allow-host"
            raise ProblemError("forbidden", detail)
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return b""
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise ProblemError("forbidden", f"a page of {origin!r} may not do this")
        body = await self._read(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        form = request.url.path in FORMS and kind == "application/x-www-form-urlencoded"
        if body and kind != "application/json" and not form:
            raise ProblemError("unsupported-media-type", f"the body is {kind or 'of no type'!r}")
        return body

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


def _name(host: str) -> str:
    """The Host header without its port: ``[::1]:80`` is ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
