"""A reverse proxy as people put before the service, with what such proxies do to HTTP."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from fastapi import FastAPI, Request
from starlette.background import BackgroundTask
from starlette.datastructures import MutableHeaders
from starlette.responses import Response, StreamingResponse

from .conftest import served

_HOP = ("connection", "keep-alive", "transfer-encoding", "host", "content-length")


@dataclass
class Proxy:
    upstream: str
    path: str = ""  # that it shows the service under
    strip: bool = True  # whether it takes that path off
    headers: dict[str, str] = field(default_factory=dict)  # to send on, Host among them
    refuse: Callable[[Request], Response | None] = lambda _: None  # answers in the service's place
    change: Callable[[MutableHeaders], None] = lambda _: None  # what comes back
    asked: list[str] = field(default_factory=list)  # what it was asked for

    async def __call__(self, request: Request) -> Response:
        self.asked.append(f"{request.method} {request.url.path}")
        if (refusal := self.refuse(request)) is not None:
            return refusal
        path = request.url.path.removeprefix(self.path) if self.strip else request.url.path
        sent = {k: v for k, v in request.headers.items() if k not in _HOP} | self.headers
        client = httpx.AsyncClient(base_url=self.upstream)
        asked = client.build_request(
            request.method,
            httpx.URL(path=path or "/", query=request.url.query.encode()),
            headers=sent,
            content=await request.body(),
        )
        got = await client.send(asked, stream=True)
        answer = StreamingResponse(
            got.aiter_raw(), got.status_code, background=BackgroundTask(client.aclose)
        )
        answer.raw_headers = [(k.lower(), v) for k, v in got.headers.raw if k.lower() != b"date"]
        self.change(answer.headers)
        return answer

    @contextmanager
    def running(self) -> Iterator[str]:
        """Gives the URL that the service has for those before the proxy."""
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        every = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]
        app.add_api_route("/{path:path}", self.__call__, methods=every)
        with served(app) as url:
            yield url + self.path
