"""Renders the pages: their templates, what numbers and times look like, and a router for them."""

import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool

from rhocache_schemas.api import Scope
from rhocache_schemas.errors import RhocacheError, meaning
from rhocache_schemas.job.names import last_part
from rhocache_service.http import problems
from rhocache_service.http.addresses import path_inside, root_path
from rhocache_service.http.problems import ProblemError, as_problem
from rhocache_service.registry.callers import Caller

# Where the links at the top lead, and what one needs there.
LINKS: tuple[tuple[str, str, Scope | None], ...] = (
    ("/", "Jobs", "jobs:read"),
    ("/submit", "Submit", "jobs:write"),
    ("/caches", "Caches", "caches:read"),
    ("/runs", "Runs", "caches:read"),
    ("/docs", "API", None),
)

templates = Environment(
    loader=PackageLoader("rhocache_service.web"),
    autoescape=True,  # what datasets and jobs say is text, never markup
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def as_path(value: object) -> str:
    """Quote what is a part of a URL."""
    return quote(str(value), safe="")


def words(code: str) -> str:
    return code.replace("_", " ")


def number(value: int) -> str:
    return f"{value:,}"


def duration(seconds: float) -> str:
    """Spell a time span with its two largest units: ``2 h 05 min``."""
    whole = max(0, round(seconds))
    for unit, size, below, name in ((86400, 3600, "h", "d"), (3600, 60, "min", "h")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // size:02} {below}"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"


def age(at: float) -> str:
    """Say how long ago a Unix second is, by its largest unit; page.js says it the same way."""
    seconds = max(0, round(time.time() - at))
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {name} ago"
    return "just now"


def exact(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def size(count: float) -> str:
    """Spell bytes: ``1.2 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def rate(value: float) -> str:
    """Spell pairs a second: whole ones, but for those of a slow job."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def counted(value: int, thing: str) -> str:
    """Spell how many there are: ``1 shard``, ``1,000 shards``."""
    return f"{value:,} {thing}{'' if value == 1 else 's'}"


def rounded(value: float) -> str:
    """Spell a number that is not known well: its first two digits."""
    return f"{float(f'{value:.2g}'):,.0f}"


def value(given: str | float | None) -> str:
    """Spell what a table's summary holds."""
    if isinstance(given, float):
        return f"{given:.4g}"
    if isinstance(given, int) and not isinstance(given, bool):
        return f"{given:,}"
    return "–" if given is None else str(given)


_FILTERS: dict[str, Callable[..., str]] = {
    "path": as_path,
    "words": words,
    "number": number,
    "counted": counted,
    "duration": duration,
    "age": age,
    "exact": exact,
    "size": size,
    "rate": rate,
    "rounded": rounded,
    "value": value,
    "meaning": meaning,
    "last_part": last_part,
}
templates.filters |= _FILTERS


class _PageRoute(APIRoute):
    """Answers with a page where the API's dependencies answer with a problem."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except (RhocacheError, RequestValidationError) as error:
                return await run_in_threadpool(refusal, request, as_problem(error))

        return answer


def page_router() -> APIRouter:
    """Make a router for pages, which the API's description leaves out."""
    return APIRouter(
        include_in_schema=False, default_response_class=HTMLResponse, route_class=_PageRoute
    )


def page(name: str, request: Request, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a template, which offers what the visitor may do alone."""
    who: Caller | None = getattr(request.state, "visitor", None)

    def may(scope: Scope | None) -> bool:
        return scope is None or (who is not None and who.may(scope))

    text = templates.get_template(name).render(
        path=path_inside(request),
        root=root_path(request),
        links=[(place, title) for place, title, scope in LINKS if may(scope)],
        may=may,
        visitor=who,
        now=time.time(),
        **values,
    )
    return HTMLResponse(text, status, {"Cache-Control": "no-store"})


def refusal(request: Request, problem: ProblemError) -> Response:
    """Show a problem as a page; who is not signed in is led to where that is done."""
    if problem.slug == "unauthenticated" and not path_inside(request).startswith("/v1/"):
        asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        root = root_path(request)
        back = "" if asked == f"{root}/" or request.method != "GET" else asked
        query = f"?to={quote(back, safe='/')}" if back else ""
        return RedirectResponse(f"{root}/sign-in{query}", status_code=303)
    kind = problems.KINDS[problem.slug]
    shown = page(
        "problem.html",
        request,
        problem.status,
        slug=problem.slug,
        kind=kind,
        detail=str(problem),
        errors=problem.errors,
        request_id=request.state.request_id,
    )
    shown.headers.update(problem.headers)
    return shown
