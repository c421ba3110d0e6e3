"""Reads a request's body, within a limit, and notices from then on when the client has gone."""

import asyncio
from typing import Self

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rhocache_schemas.abandonment import until
from rhocache_service.http.addresses import path_inside
from rhocache_service.http.middleware.hosts import SAFE_METHODS
from rhocache_service.http.problems import ProblemError, problem_response


class BodyLimit:
    """Passes on JSON, or a page's form, of at most ``most_bytes`` bytes; GET has no body."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = await self._read(request)
        except ProblemError as error:
            await problem_response(request, error)(scope, receive, send)
            return
        whole: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def read() -> Message:
            nonlocal whole
            message, whole = whole, None
            return await receive() if message is None else message

        await self._app(scope, read, send)

    async def _read(self, request: Request) -> bytes:
        if request.method in SAFE_METHODS:
            return b""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._most_bytes:
                detail = f"a body may have at most {self._most_bytes} bytes"
                raise ProblemError("payload-too-large", detail)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        page = not path_inside(request).startswith("/v1/")  # which sends forms, without a script
        form = page and kind == "application/x-www-form-urlencoded"
        if body and kind != "application/json" and not form:
            raise ProblemError("unsupported-media-type", f"the body is {kind or 'of no type'!r}")
        return bytes(body)


class Disconnects:
    """Lets work in threads be given up (``keep_on``) when the client has gone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with _Listener(await receive(), receive) as listener:
            with until(listener.gone.is_set):
                await self._app(scope, listener.receive, send)


class _Listener:
    """Gives the application its body, and listens all the time for the client's going."""

    def __init__(self, body: Message, receive: Receive) -> None:
        self._body: Message | None = body
        self._receive = receive
        self.gone = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.cancel()

    async def receive(self) -> Message:
        message, self._body = self._body, None
        if message is not None:
            return message
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone.set()
