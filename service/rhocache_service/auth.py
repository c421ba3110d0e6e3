"""Who sends a request, and what it may do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from rhocache_service.keys import SCOPES, Keys, Scope
from rhocache_service.problems import ProblemError

COOKIE = "rhocache_key"  # what the page's sign-in leaves in a browser

_bearer = HTTPBearer(auto_error=False, description="an API key, from `rhocache keys create`")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="the same, for the page")


@dataclass(frozen=True, slots=True)
class Caller:
    key: str | None  # id of the API key; None while the service has none
    scopes: frozenset[str]


def caller(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    cookie: Annotated[str | None, Depends(_cookie)],
) -> Caller:
    """Everyone may do everything while there are no keys: the service is on loopback then."""
    keys: Keys = request.app.state.keys
    if not keys.exist():
        return Caller(None, frozenset(SCOPES))
    given = bearer.credentials if bearer else cookie
    row = keys.check(given or "")
    if row is None:
        detail = "this API key is not valid" if given else "no API key was sent"
        raise ProblemError("unauthenticated", detail, headers={"WWW-Authenticate": "Bearer"})
    return Caller(row.id, frozenset(row.scopes))


def needs(scope: Scope) -> Callable[[Caller], Caller]:
    """A dependency: the caller, if it has this scope or is an admin."""

    def check(who: Annotated[Caller, Depends(caller)]) -> Caller:
        if scope not in who.scopes and "admin" not in who.scopes:
            raise ProblemError("forbidden", f"this API key lacks the scope {scope}")
        return who

    return check


ReadsJobs = Annotated[Caller, Depends(needs("jobs:read"))]
WritesJobs = Annotated[Caller, Depends(needs("jobs:write"))]
ReadsCaches = Annotated[Caller, Depends(needs("caches:read"))]
