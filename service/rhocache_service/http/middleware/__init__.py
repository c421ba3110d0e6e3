"""Middleware that every HTTP request passes before it reaches a route, a class for each job."""

from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from rhocache_service.http.middleware.access_log import AccessLog, RequestId
from rhocache_service.http.middleware.bodies import BodyLimit, Disconnects
from rhocache_service.http.middleware.headers import HeadersAlone, SecurityHeaders
from rhocache_service.http.middleware.hosts import HostCheck, OriginCheck
from rhocache_service.http.middleware.proxies import Proxies


class HttpMiddleware:
    """All of it, in the order in which a request must pass it."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: Sequence[str],
        max_body_bytes: int,
        trusted_proxies: Sequence[str],
        root_path: str,
    ) -> None:
        self._app = app
        http: ASGIApp = HeadersAlone(app)  # the last one that a request passes
        http = Disconnects(http)
        http = BodyLimit(http, max_body_bytes)
        http = OriginCheck(http, allowed_hosts)
        http = HostCheck(http, allowed_hosts)
        http = SecurityHeaders(http)
        http = AccessLog(http)
        http = RequestId(http)
        self._http: ASGIApp = Proxies(http, trusted_proxies, root_path)  # the first one

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._http if scope["type"] == "http" else self._app
        await app(scope, receive, send)
