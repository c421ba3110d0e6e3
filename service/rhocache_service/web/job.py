"""A job's page: how far it is, what it did when, what failed, its log, how to submit it again."""

from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from rhocache_schemas.api import ShardList
from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.failures import Failed, errors_by_code
from rhocache_schemas.job.fields import chosen
from rhocache_schemas.job.kinds import UnknownKind
from rhocache_schemas.job.over_cache import CacheJobSpec
from rhocache_schemas.job.spec import JobSpec, JobState
from rhocache_schemas.table.reader import TableReader
from rhocache_service.api.auth import ReadsJobs, WritesJobs
from rhocache_service.api.dependencies import Found, InRegistry, WithSubmissions
from rhocache_service.caches.images import Place
from rhocache_service.http.addresses import root_path
from rhocache_service.jobs.resource import shard_resources
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.search import owners
from rhocache_service.registry.tables import JobRow
from rhocache_service.web import again
from rhocache_service.web.charts import Line, line
from rhocache_service.web.named import named
from rhocache_service.web.neighbours import gallery
from rhocache_service.web.render import page, page_router
from rhocache_service.web.table import Shown, shown
from rhocache_service.web.timeline import timeline

router = page_router()

_CELLS = 2000  # of the grid of shards
_LINES = 200  # of a log


@router.get("/jobs/{job}")
def job(who: ReadsJobs, request: Request, row: Found, registry: InRegistry):
    spec = row.job_spec()
    listed = {place: registry.caches.at(place) for place in row.outputs if row.fingerprint}
    ids = {place: found.id for place, found in listed.items() if found is not None}
    cache = ids.get(spec.output)
    data = _look_into_data(request, row, with_pairs=bool(cache) and who.may("caches:read"))
    return page(
        "job.html",
        request,
        **_now(registry, row),
        data=data,
        outcomes=registry.shard_outcomes(row.id, _CELLS),
        cache=cache,
        others={place: ids.get(place) for place in row.outputs[1:]},
        neighbours=gallery(request, registry, spec, with_pictures=who.may("caches:read")),
        asked=chosen(spec),
        table=_table(spec),
        again=None if isinstance(spec, UnknownKind) else _again(request, row),
    )


def _table(spec: JobSpec) -> Shown | None:
    """What a job over a cache has made, once it is committed."""
    if not isinstance(spec, CacheJobSpec):
        return None
    try:
        found = TableReader.find(spec.output)
    except RhocacheError:  # it may be damaged, or gone with its storage
        return None
    same = found is not None and found.manifest.spec == spec
    return shown(found.manifest) if found and same else None


@router.get("/jobs/{job}/now")
def now(_: ReadsJobs, request: Request, row: Found, registry: InRegistry):
    """The part of a job's page that changes while it runs; no dataset or cache is read for it."""
    return page("job_now.html", request, **_now(registry, row))


@router.get("/jobs/{job}/log")
def log(_: ReadsJobs, request: Request, row: Found):
    lines: list[str] = []
    trouble = None
    try:
        lines = request.app.state.cluster.log(row.id, row.starts, _LINES)
    except RhocacheError as error:
        trouble = str(error)
    text = "\n".join(lines)
    return page("log.html", request, job=named(row, {}), text=text, trouble=trouble)


@router.post("/jobs/{job}/cancel")
def cancel(_: WritesJobs, request: Request, row: Found, registry: InRegistry):
    registry.advance(row, JobState.CANCELLING, stopped_by="request")
    return _to(request, row)


@router.post("/jobs/{job}/retry")
def retry(who: WritesJobs, request: Request, row: Found, submissions: WithSubmissions):
    return _to(request, submissions.retry(row, who))


def _to(request: Request, row: JobRow) -> RedirectResponse:
    return RedirectResponse(f"{root_path(request)}/jobs/{row.id}", status_code=303)


def _now(registry: Registry, row: JobRow) -> dict[str, Any]:
    progress = Progress.model_validate(row.progress) if row.progress else None
    steps = progress.steps if progress else []
    with Session(registry.engine) as session:
        found = named(row, owners(session, [row]))
    return {
        "job": found,
        "event": row.last_event,
        "phases": timeline(row, steps),
        "step": next((step.name for step in reversed(steps) if step.ended_at is None), None),
        "limited_by": progress.limited_by if progress else None,
        "curve": _curve(registry.rates(row.id)),
    }


def _curve(rates: list[tuple[float, float]]) -> Line | None:
    first = rates[0][0] if rates else 0.0
    return line([at - first for at, _ in rates], [r for _, r in rates], zero=True, times=True)


@dataclass(frozen=True, slots=True)
class _Data:
    """What the dataset and the cache tell of a job; they may be gone."""

    shards: ShardList | None
    failed: dict[str, Failed]
    pairs: dict[Place, Pair]  # of those that failed
    trouble: str | None


def _look_into_data(request: Request, row: JobRow, *, with_pairs: bool) -> _Data:
    output = row.spec["output"]
    counted = Progress.model_validate(row.progress).failed_by_code if row.progress else {}
    try:
        shards = shard_resources(row, _CELLS, None)
        failed = errors_by_code(output, counted)
    except RhocacheError as error:
        return _Data(None, {}, {}, str(error))
    samples = [fault for group in failed.values() for fault in group.samples]
    places = [(fault.shard, fault.row) for fault in samples if fault.row is not None]
    pairs: dict[Place, Pair] = {}
    trouble = None
    if with_pairs and places:
        try:
            pairs = request.app.state.pictures.read(CacheReader.open(output).manifest, places)
        except RhocacheError as error:
            trouble = f"The pictures can't be shown: {error}"
    return _Data(shards, failed, pairs, trouble)


def _again(request: Request, row: JobRow) -> dict[str, str]:
    made, url = again.submission_of(row), str(request.base_url).rstrip("/")
    return {
        "command": again.command(made, url),
        "curl": again.curl(made, url, keys=request.app.state.keys.exist()),
    }
