"""Refuses requests whose Host isn't the service's, or whose Origin is another site.

A page elsewhere can make a browser send requests to a loopback address under a name of its own
(DNS rebinding); the Host header gives that away, and Origin gives away a page's own requests.
"""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from rhocache_service.http.addresses import (
    LOOPBACK,
    PROBES,
    host_matches,
    is_named_page,
    is_same_page,
    path_inside,
)
from rhocache_service.http.problems import ProblemError, problem_response

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # change nothing (RFC 9110, 9.2.1)


class HostCheck:
    """Lets requests pass that name the service, and those of probes, which name a pod."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app = app
        self._allowed = (*LOOPBACK, *allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app, request = self._app, Request(scope)
        host = request.headers.get("host", "")
        probe = request.method in SAFE_METHODS and path_inside(request) in PROBES
        if not probe and not any(host_matches(host, each) for each in self._allowed):
            detail = f"Host {host!r} is not one that this service answers to; see --allow-host"
            app = problem_response(request, ProblemError("forbidden", detail))
        await app(scope, receive, send)


class OriginCheck:
    """Lets requests pass that change nothing, or come from a page of the service or from none."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app, request = self._app, Request(scope)
        origin = None if request.method in SAFE_METHODS else request.headers.get("origin")
        if origin is not None and not self._is_own_page(request, origin):
            detail = f"a page of {origin!r} may not do this"
            app = problem_response(request, ProblemError("forbidden", detail))
        await app(scope, receive, send)

    def _is_own_page(self, request: Request, origin: str) -> bool:
        """Tell whether a page is the service's, also where a proxy changed the Host.

        Over HTTPS and on loopback browsers tell by Sec-Fetch-Site, which no page can set. Else the
        Origin has the Host, or a name that the service was given as its own.
        """
        if request.headers.get("sec-fetch-site") == "same-origin":
            return True
        host = request.headers.get("host", "")
        named = any(is_named_page(each, origin, host) for each in self._allowed)
        return named or is_same_page(origin, host)
