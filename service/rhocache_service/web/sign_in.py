"""Signing in and out: a key begins a browser's session."""

from typing import Annotated

from fastapi import Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from rhocache_service.api.auth import TLS_COOKIE, cookie_name, visitor
from rhocache_service.http.addresses import root_path
from rhocache_service.registry.callers import Caller
from rhocache_service.web.render import LINKS, page, page_router

router = page_router()


@router.get("/sign-in", dependencies=[Depends(visitor)])
def sign_in(request: Request, to: str = ""):
    return page("sign_in.html", request, to=to, wrong=False)


@router.post("/sign-in", dependencies=[Depends(visitor)])
def signed_in(request: Request, key: Annotated[str, Form()], to: Annotated[str, Form()] = ""):
    row = request.app.state.keys.check(key.strip())
    if row is None:
        return page("sign_in.html", request, 401, to=to, wrong=True)
    _end_session(request)
    who = Caller(row.id, frozenset(row.scopes))
    place = _safe(to) or root_path(request) + _first(who)
    response = RedirectResponse(place, status_code=303)
    _set_cookie(request, response, request.app.state.sessions.begin(row))
    return response


@router.post("/sign-out")
def sign_out(request: Request):
    _end_session(request)
    response = RedirectResponse(f"{root_path(request)}/sign-in", status_code=303)
    _set_cookie(request, response, "", max_age=0)
    return response


def _safe(to: str) -> str | None:
    """A place of our own to go on to."""
    return to if to.startswith("/") and not to.startswith(("//", "/\\")) else None


def _first(who: Caller) -> str:
    """The first page that a visitor may see."""
    return next(place for place, _, scope in LINKS if scope is None or who.may(scope))


def _end_session(request: Request) -> None:
    token = request.cookies.get(cookie_name(request))
    if token:
        request.app.state.sessions.end(token)


def _set_cookie(
    request: Request, response: Response, token: str, max_age: int | None = None
) -> None:
    name = cookie_name(request)
    response.set_cookie(
        name,
        token,
        max_age,
        path="/" if name == TLS_COOKIE else root_path(request) or "/",
        httponly=True,
        samesite="strict",
        secure=name == TLS_COOKIE,
    )
