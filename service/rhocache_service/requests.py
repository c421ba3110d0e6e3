"""What every request goes through first: an id, and a look at its Host header."""

import secrets
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response

from rhocache_service.problems import REQUEST_ID, ProblemError, problem_response
from rhocache_service.settings import LOOPBACK

Next = Callable[[Request], Awaitable[Response]]


def install(app: FastAPI, hosts: list[str]) -> None:
    """Answer only to loopback names and ``hosts``.

    A page elsewhere can make a browser send requests to a loopback address under a name of its own
    (DNS rebinding); the Host header gives that away.
    """
    allowed = {host.lower() for host in (*LOOPBACK, *hosts)}

    @app.middleware("http")
    async def first(request: Request, call_next: Next) -> Response:
        request.state.request_id = f"req_{secrets.token_hex(8)}"
        name = _name(request.headers.get("host", ""))
        if name in allowed:
            response = await call_next(request)
        else:
            detail = f"Host {name!r} is not one that this service answers to; see --allow-host"
            response = problem_response(request, ProblemError("forbidden", detail))
        response.headers[REQUEST_ID] = request.state.request_id
        return response


def _name(host: str) -> str:
    """The Host header without its port: ``[::1]:80`` is ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
