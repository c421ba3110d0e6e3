"""The pages for people. What they show comes from the same functions as the REST API's answers,
and asks for the same scopes."""

import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Form, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool

from rhocache_schemas.api import CachedPair, Scope
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.failures import errors_by_code
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.job.fields import chosen
from rhocache_schemas.job.kinds import DEFAULT, KINDS, UnknownKind
from rhocache_schemas.job.spec import JobState
from rhocache_service.api.auth import (
    TLS_COOKIE,
    ReadsCaches,
    ReadsJobs,
    WritesJobs,
    cookie_name,
    visitor,
)
from rhocache_service.api.caches import InCache
from rhocache_service.api.dependencies import Found, InRegistry
from rhocache_service.caches import similarity
from rhocache_service.caches.images import Place
from rhocache_service.http import problems
from rhocache_service.http.addresses import path_inside, root_path
from rhocache_service.http.problems import ProblemError, as_problem
from rhocache_service.jobs.resource import job_resource, shard_resources
from rhocache_service.registry.caches import cache_id
from rhocache_service.registry.callers import Caller
from rhocache_service.registry.tables import JobRow
from rhocache_service.web import again

# Where the links at the top lead, and what one needs there.
_LINKS: tuple[tuple[str, str, Scope | None], ...] = (
    ("/", "Jobs", "jobs:read"),
    ("/submit", "Submit", "jobs:write"),
    ("/caches", "Caches", "caches:read"),
    ("/docs", "API", None),
)
_ROWS = 50  # of a list, on one page
_CELLS = 2000  # of the grid of shards
_RATES = 300  # points of the rate's curve
_GALLERY = 24
_BARS = 60
_SWAGGER_CSP = (  # it writes styles and pictures into its page, but none of what a dataset says
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)

templates = Environment(
    loader=PackageLoader("rhocache_service.web"),
    autoescape=True,  # what datasets and jobs say is text, never markup
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters["path"] = lambda value: quote(str(value), safe="")


class _PageRoute(APIRoute):
    """Answers with a page where the API's dependencies answer with a problem."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except (RhocacheError, RequestValidationError) as error:
                return await run_in_threadpool(_refusal, request, as_problem(error))

        return answer


router = APIRouter(
    include_in_schema=False, default_response_class=HTMLResponse, route_class=_PageRoute
)


def install(app: FastAPI) -> None:
    # Swagger UI from a package, since a page of ours loads nothing from elsewhere.
    app.mount("/static/swagger", StaticFiles(packages=[("fastapi_swagger", "resources")]))
    app.mount("/static", StaticFiles(packages=[("rhocache_service.web", "static")]))
    app.include_router(router)


def _page(name: str, request: Request, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a template, which offers what the visitor may do alone."""
    who: Caller | None = getattr(request.state, "visitor", None)

    def may(scope: Scope | None) -> bool:
        return scope is None or (who is not None and who.may(scope))

    text = templates.get_template(name).render(
        path=path_inside(request),
        root=root_path(request),
        links=[(place, title) for place, title, scope in _LINKS if may(scope)],
        may=may,
        visitor=who,
        **values,
    )
    return HTMLResponse(text, status, {"Cache-Control": "no-store"})


def _refusal(request: Request, problem: ProblemError) -> Response:
    if problem.slug == "unauthenticated":
        asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        root = root_path(request)
        back = "" if asked == f"{root}/" else f"?to={quote(asked, safe='/')}"
        return RedirectResponse(f"{root}/sign-in{back}", status_code=303)
    kind = problems.KINDS[problem.slug]
    detail = str(problem)
    return _page(
        "problem.html", request, problem.status, slug=problem.slug, kind=kind, detail=detail
    )


@router.get("/")
def jobs(
    _: ReadsJobs,
    request: Request,
    registry: InRegistry,
    status: JobState | Literal[""] = "",
    after: str = "",
):
    rows = registry.newest(_ROWS + 1, registry.get(after), JobState(status) if status else None)
    return _page(
        "jobs.html",
        request,
        jobs=[job_resource(row) for row in rows[:_ROWS]],
        older=rows[_ROWS - 1].id if len(rows) > _ROWS else None,
        states=list(JobState),
        chosen=status,
    )


@router.get("/jobs/{job}")
def job(_: ReadsJobs, request: Request, row: Found, registry: InRegistry):
    found = job_resource(row)
    spec = row.job_spec()
    try:
        shards = shard_resources(row, _CELLS, None)
        failed = errors_by_code(spec.output, found.failed_by_code)
        trouble = None
    except RhocacheError as error:  # a dataset or cache that can't be read any more
        shards, failed, trouble = None, {}, str(error)
    rates = [
        (event.at, event.data["pairs_per_second"])
        for event in registry.events(row.id, max(0, row.last_event - _RATES), _RATES)
        if event.kind == "job.progress"
    ]
    return _page(
        "job.html",
        request,
        job=found,
        shards=shards,
        failed=failed,
        trouble=trouble,
        rates=json.dumps(rates),
        cache=cache_id(spec.output) if row.fingerprint else None,
        asked=chosen(spec),
        again=None if isinstance(spec, UnknownKind) else _again(request, row),
    )


def _again(request: Request, row: JobRow) -> dict[str, Any]:
    made, url = again.submission_of(row), str(request.base_url).rstrip("/")
    return {
        "command": again.command(made, url),
        "curl": again.curl(made, url, keys=request.app.state.keys.exist()),
        "controls": again.form(row.job_spec().kind, made),
    }


@router.get("/submit")
def submit(_: WritesJobs, request: Request, kind: str = DEFAULT):
    if kind not in KINDS:
        raise ProblemError("not-found", f"no kind of jobs {kind!r}")
    return _page(
        "submit.html",
        request,
        roots=request.app.state.settings.roots,
        kinds=sorted(KINDS),
        kind=kind,
        controls=again.form(kind),
    )


@router.get("/caches")
def list_caches(_: ReadsCaches, request: Request, registry: InRegistry, after: str = ""):
    rows = registry.caches.newest(_ROWS + 1, registry.caches.find(after) if after else None)
    older = rows[_ROWS - 1].id if len(rows) > _ROWS else None
    return _page("caches.html", request, caches=rows[:_ROWS], older=older)


@router.get("/caches/{cache}")
def cache(request: Request, cache: InCache, key: Annotated[str | None, Query()] = None):
    reader = CacheReader.open(cache.uri)
    ranked = request.app.state.similarities(reader)
    total = len(ranked.similarity)
    groups: dict[str, list[CachedPair]] = {}
    if key:
        groups[f"Pairs with the key {key}"] = list(similarity.find_key(reader, key))[:_GALLERY]
    else:
        low = range(min(_GALLERY, total))
        groups["Lowest similarity"] = similarity.pairs_at(reader, ranked, low)
        high = [total - 1 - rank for rank in low]
        groups["Highest similarity"] = similarity.pairs_at(reader, ranked, high)
    shown, trouble = _pairs(request, reader.manifest, groups)
    return _page(
        "cache.html",
        request,
        cache=cache,
        manifest=reader.manifest,
        key=key or "",
        groups=groups,
        shown=shown,
        trouble=trouble,
        histogram=_histogram(ranked.similarity),
    )


def _pairs(
    request: Request, manifest: Manifest, groups: dict[str, list[CachedPair]]
) -> tuple[dict[Place, Pair], str | None]:
    places = [(pair.shard, pair.row) for group in groups.values() for pair in group]
    try:
        return request.app.state.pictures.read(manifest, places), None
    except RhocacheError as error:  # the cache is all that a trainer needs: a dataset may be gone
        return {}, str(error)


def _histogram(similarity: np.ndarray) -> dict[str, Any]:
    if not len(similarity):
        return {"bars": [], "low": 0.0, "high": 0.0, "median": 0.0}
    counts, edges = np.histogram(similarity, bins=_BARS)
    most = int(counts.max())
    bars = [
        {"count": int(count), "height": 100 * int(count) / most, "from": a, "to": b}
        for count, a, b in zip(counts, edges, edges[1:], strict=False)
    ]
    low, high = float(edges[0]), float(edges[-1])
    return {"bars": bars, "low": low, "high": high, "median": float(np.median(similarity))}


@router.get("/docs")
def docs(request: Request):
    page = HTMLResponse(templates.get_template("docs.html").render(root=root_path(request)))
    page.headers["Content-Security-Policy"] = _SWAGGER_CSP
    return page


@router.get("/problems/{slug}", dependencies=[Depends(visitor)])
def problem(request: Request, slug: str):
    if slug not in problems.KINDS:
        raise ProblemError("not-found", f"no problem {slug!r}")
    return _page("problem.html", request, slug=slug, kind=problems.KINDS[slug], detail=None)


@router.get("/sign-in", dependencies=[Depends(visitor)])
def sign_in(request: Request, to: str = ""):
    return _page("sign_in.html", request, to=to, wrong=False)


@router.post("/sign-in", dependencies=[Depends(visitor)])
def signed_in(request: Request, key: Annotated[str, Form()], to: Annotated[str, Form()] = ""):
    row = request.app.state.keys.check(key.strip())
    if row is None:
        return _page("sign_in.html", request, 401, to=to, wrong=True)
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
    return next(place for place, _, scope in _LINKS if scope is None or who.may(scope))


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
