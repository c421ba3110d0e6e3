"""The pages for people. What they show comes from the same functions as the REST API's answers."""

import json
from typing import Annotated, Any, Literal
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined

from rhocache_schemas.api import CachedPair
from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.job import JobState
from rhocache_schemas.pairs import Pair
from rhocache_schemas.records import Manifest
from rhocache_service import again, auth, caches
from rhocache_service.auth import COOKIE, Caller
from rhocache_service.committed import cache_id
from rhocache_service.dependencies import Found, InRegistry
from rhocache_service.pair_errors import errors_by_code
from rhocache_service.pictures import Place
from rhocache_service.problems import KINDS, ProblemError
from rhocache_service.resources import job_resource
from rhocache_service.shards import shard_list

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

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
    loader=PackageLoader("rhocache_service"),
    autoescape=True,  # what datasets and jobs say is text, never markup
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters["path"] = lambda value: quote(str(value), safe="")


class SignInNeeded(Exception):
    """A page was asked for without a valid key."""


def install(app: FastAPI) -> None:
    @app.exception_handler(SignInNeeded)
    def sign_in_first(request: Request, _: SignInNeeded) -> Response:
        return RedirectResponse(f"/sign-in?to={quote(request.url.path)}", status_code=303)

    # Swagger UI from a package, since a page of ours loads nothing from elsewhere.
    app.mount("/static/swagger", StaticFiles(packages=[("fastapi_offline", "static")]))
    app.mount("/static", StaticFiles(packages=[("rhocache_service", "static")]))
    app.include_router(router)


def _visitor(request: Request) -> Caller:
    try:
        return auth.caller(request, None, request.cookies.get(COOKIE))
    except ProblemError as error:
        raise SignInNeeded from error


Visitor = Annotated[Caller, Depends(_visitor)]


def _page(name: str, request: Request, **values: Any) -> HTMLResponse:
    closed = request.app.state.keys.exist()
    text = templates.get_template(name).render(path=request.url.path, closed=closed, **values)
    return HTMLResponse(text)


@router.get("/")
def jobs(
    _: Visitor,
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
def job(_: Visitor, request: Request, row: Found, registry: InRegistry):
    found = job_resource(row)
    spec, submission = row.job_spec(), again.submission_of(row)
    url = str(request.base_url).rstrip("/")
    try:
        shards = shard_list(spec, _CELLS, None)
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
        command=again.command(submission, url),
        curl=again.curl(submission, url, keys=request.app.state.keys.exist()),
    )


@router.get("/submit")
def submit(_: Visitor, request: Request):
    return _page("submit.html", request, roots=request.app.state.settings.roots)


@router.get("/caches")
def list_caches(_: Visitor, request: Request, registry: InRegistry, after: str = ""):
    rows = registry.caches.newest(_ROWS + 1, registry.caches.find(after) if after else None)
    older = rows[_ROWS - 1].id if len(rows) > _ROWS else None
    return _page("caches.html", request, caches=rows[:_ROWS], older=older)


@router.get("/caches/{cache}")
def cache(
    _: Visitor,
    request: Request,
    registry: InRegistry,
    cache: str,
    key: Annotated[str | None, Query()] = None,
):
    summary = registry.caches.find(cache)
    manifest = caches.read_manifest(summary.uri)
    ranked = request.app.state.similarities.get(summary.uri)
    total = len(ranked.similarity)
    groups: dict[str, list[CachedPair]] = {}
    if key:
        groups[f"Pairs with the key {key}"] = list(caches.find_key(summary.uri, key))[:_GALLERY]
    else:
        low = range(min(_GALLERY, total))
        groups["Lowest similarity"] = caches.pairs_at(summary.uri, ranked, low)
        high = [total - 1 - rank for rank in low]
        groups["Highest similarity"] = caches.pairs_at(summary.uri, ranked, high)
    shown, trouble = _pairs(request, manifest, groups)
    return _page(
        "cache.html",
        request,
        cache=summary,
        manifest=manifest,
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
def docs():
    page = HTMLResponse(templates.get_template("docs.html").render())
    page.headers["Content-Security-Policy"] = _SWAGGER_CSP
    return page


@router.get("/problems/{slug}")
def problem(request: Request, slug: str):
    if slug not in KINDS:
        raise ProblemError("not-found", f"no problem {slug!r}")
    return _page("problem.html", request, slug=slug, kind=KINDS[slug])


@router.get("/sign-in")
def sign_in(request: Request, to: str = "/"):
    return _page("sign_in.html", request, to=to, wrong=False)


@router.post("/sign-in")
def signed_in(request: Request, key: Annotated[str, Form()], to: Annotated[str, Form()] = "/"):
    if request.app.state.keys.check(key.strip()) is None:
        page = _page("sign_in.html", request, to=to, wrong=True)
        page.status_code = 401
        return page
    place = to if to.startswith("/") and not to.startswith(("//", "/\\")) else "/"
    response = RedirectResponse(place, status_code=303)
    response.set_cookie(
        COOKIE, key.strip(), httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return response


@router.post("/sign-out")
def sign_out():
    response = RedirectResponse("/sign-in", status_code=303)
    response.delete_cookie(COOKIE)
    return response
