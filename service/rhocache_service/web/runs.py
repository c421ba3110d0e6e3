"""Training runs: what became of a cache. Their pages read the folders that the trainer writes."""

import time
from typing import Any

from fastapi import Request, Response
from starlette.responses import Response as Answer

from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.job.allowed_roots import true_place
from rhocache_service.api.auth import ReadsCaches
from rhocache_service.api.dependencies import InRegistry
from rhocache_service.caches.images import media_type
from rhocache_service.http.problems import ProblemError
from rhocache_service.registry.caches import Committed, cache_id
from rhocache_service.web.charts import line
from rhocache_service.web.render import page, page_router
from rhocache_service.web.run_folders import caches_of, list_runs, read_picture, read_run

router = page_router()

_LIVE_SECONDS = 120  # after its last step a run is taken to have ended
_POINTS = 600  # of a curve
_CURVES = (
    ("objective", "Objective", "what is minimised"),
    ("tau", "τ", "the temperature"),
    (
        "effective_sample_size",
        "Effective sample size",
        "share of the negatives that count",
    ),
    ("accuracy", "Accuracy", "of the classifier, on its batches"),
    ("gradient_norm", "Gradient norm", "before clipping"),
    ("lr", "Learning rate", ""),
    ("pairs_per_second", "Pairs a second", ""),
)


@router.get("/runs")
def runs(_: ReadsCaches, request: Request, cache: str = ""):
    """All runs, or those that a cache has steered."""
    found = list_runs(request.app.state.settings.roots)
    if cache:
        place = _place(cache)
        found = [run for run in found if place and place in map(_place, run.caches)]
    return page("runs.html", request, runs=found, cache=cache)


@router.get("/run")
def run(_: ReadsCaches, request: Request, registry: InRegistry, folder: str):
    found = read_run(folder, request.app.state.settings.roots)
    return page(
        "run.html",
        request,
        run=found,
        folder=folder,
        live=time.time() - found.changed_at < _LIVE_SECONDS,
        curves=[
            (title, about, found.last(name), curve)
            for name, title, about in _CURVES
            if (curve := _curve(*found.series(name)))
        ],
        settings=sorted(_flat(found.settings).items()),
        evaluation=_flat(found.evaluation),
        caches=[(cache, _committed(registry.caches, cache)) for cache in caches_of(found.settings)],
    )


@router.get("/run/pictures/{name}")
def picture(_: ReadsCaches, request: Request, name: str, folder: str) -> Response:
    data = read_picture(folder, name, request.app.state.settings.roots)
    if data is None:
        raise ProblemError("not-found", f"the run has no picture {name!r}")
    sandbox = {"Content-Security-Policy": "sandbox; default-src 'none'"}
    return Answer(data, media_type=media_type(data), headers=sandbox)


def _curve(steps: list[float], values: list[float]):
    every = max(1, len(steps) // _POINTS)
    return line(steps[::every], values[::every], zero=False)


def _place(location: str) -> object:
    try:
        return true_place(location)
    except RhocacheError:
        return None


def _committed(caches: Committed, cache: str) -> str | None:
    """The id of a cache, where a job of this service has committed it."""
    if _place(cache) is None:
        return None
    try:
        return caches.find(cache_id(cache)).id
    except RhocacheError:
        return None


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{name}.")  # pyright: ignore[reportUnknownArgumentType]
        else:
            found[f"{prefix}{name}"] = value
    return found
