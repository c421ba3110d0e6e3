"""Authenticates requests by API key or browser session, and checks the scope of each route."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from rhocache_schemas.api import Scope
from rhocache_service.http.problems import ProblemError
from rhocache_service.registry.callers import Caller

COOKIE = "rhocache_session"
TLS_COOKIE = f"__Host-{COOKIE}"  # a name that browsers take over TLS from this very host alone

_bearer = HTTPBearer(auto_error=False, description="an API key, from `rhocache keys create`")
_plain = APIKeyCookie(
    name=COOKIE,
    scheme_name="Session",
    auto_error=False,
    description="what signing in leaves in a browser",
)
_tls = APIKeyCookie(
    name=TLS_COOKIE, scheme_name="SessionOverTLS", auto_error=False, description="the same, by TLS"
)


def cookie_name(request: Request) -> str:
    """The one that holds the session: over TLS no other is looked at, or it could be planted."""
    return TLS_COOKIE if request.url.scheme == "https" else COOKIE


def visitor(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    plain: Annotated[str | None, Depends(_plain)],
    tls: Annotated[str | None, Depends(_tls)],
) -> Caller | None:
    """Who sends the request; None without a key or session that is valid."""
    key = bearer.credentials if bearer else None
    session = tls if cookie_name(request) == TLS_COOKIE else plain
    request.state.visitor = request.app.state.callers.find(key, session)
    return request.state.visitor


def caller(request: Request, who: Annotated[Caller | None, Depends(visitor)]) -> Caller:
    if who is None:
        detail = "no API key was sent"
        if "authorization" in request.headers:
            detail = "this API key is not valid"
        elif cookie_name(request) in request.cookies:
            detail = "this session has ended; sign in again"
        raise unauthenticated(detail)
    return who


def unauthenticated(detail: str) -> ProblemError:
    return ProblemError("unauthenticated", detail, headers={"WWW-Authenticate": "Bearer"})


def needs(scope: Scope) -> Callable[[Caller], Caller]:
    """A dependency: the caller, if it has this scope or is an admin."""

    def check(who: Annotated[Caller, Depends(caller)]) -> Caller:
        check_scope(who, scope)
        return who

    return check


def check_scope(who: Caller, scope: Scope) -> None:
    """Raise ProblemError where the caller neither has the scope nor is an admin."""
    if not who.may(scope):
        raise ProblemError("forbidden", f"this API key lacks the scope {scope}")


ReadsJobs = Annotated[Caller, Depends(needs("jobs:read"))]
WritesJobs = Annotated[Caller, Depends(needs("jobs:write"))]
ReadsCaches = Annotated[Caller, Depends(needs("caches:read"))]
WritesCaches = Annotated[Caller, Depends(needs("caches:write"))]
ReadsMetrics = Annotated[Caller, Depends(needs("metrics:read"))]
