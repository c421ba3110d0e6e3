"""``/v1/jobs`` (GET, DELETE): reads and deletes jobs."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from rhocache_schemas.api import Job, JobList, JobLog, PairErrorList, ShardList
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.failures import pair_errors
from rhocache_schemas.job.fields import read_notes
from rhocache_schemas.job.spec import JobState
from rhocache_service.api.auth import ReadsJobs, WritesJobs, check_scope, unauthenticated
from rhocache_service.api.dependencies import After, Found, InRegistry
from rhocache_service.http.openapi import EVENT_STREAM, api_problems
from rhocache_service.http.problems import ProblemError
from rhocache_service.jobs.deletion import delete_with_output
from rhocache_service.jobs.events import event_data
from rhocache_service.jobs.resource import job_resource, shard_resources
from rhocache_service.registry.callers import Callers
from rhocache_service.registry.notifier import Changes
from rhocache_service.registry.tables import JobRow

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

LONGEST_WAIT = 60
LOOK_SECONDS = 15  # at the latest after which a stream looks at its job again
# Keys that this can't say are told as a JSON object.
Note = Annotated[str, Field(json_schema_extra={"pattern": "^([^{=][^=]*)?="})]
_OF_A_JOB = api_problems("validation-failed", "not-found")
_OF_ITS_CACHE = api_problems("validation-failed", "not-found", "cache-corrupt")


@router.get("", summary="List jobs", responses=_OF_A_JOB)
def list_jobs(
    _: ReadsJobs,
    registry: InRegistry,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: After = None,
    status: JobState | None = None,
    metadata: Annotated[
        list[Note],
        Query(max_length=16, description="KEY=VALUE: only jobs with all of this in their metadata"),
    ] = [],  # noqa: B006 (never changed)
) -> JobList:
    """List jobs, newest first."""
    notes = read_notes(metadata)
    last = None if after is None else registry.get(after)
    if after is not None and last is None:
        raise ProblemError("not-found", f"no job {after!r} to list after")
    rows = registry.newest(limit + 1, last, status, notes)
    return JobList.of([job_resource(row) for row in rows], limit, [row.id for row in rows])


@router.get(
    "/{job}",
    response_model=Job,
    summary="Get a job",
    responses=_OF_A_JOB | {304: {"description": "Nothing has changed since If-None-Match"}},
)
async def get_job(
    who: ReadsJobs,
    row: Found,
    request: Request,
    response: Response,
    registry: InRegistry,
    wait: Annotated[
        int,
        Query(
            ge=0,
            le=LONGEST_WAIT,
            description="seconds to wait for a change: from If-None-Match, or from now",
        ),
    ] = 0,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Any:
    """Return a job with its progress; 304 where nothing has changed since ``If-None-Match``."""
    known = _is_among(row, request.headers.getlist("if-none-match"))
    if wait and (known or if_none_match is None) and not row.state.terminal:
        changes: Changes = request.app.state.changes
        callers: Callers = request.app.state.callers
        news = await changes.wait(row.id, row.last_event, wait, who)
        fresh = await run_in_threadpool(registry.get, row.id)
        if not await run_in_threadpool(callers.may_go_on, who):
            raise unauthenticated("this API key or session has ended since")
        if news:
            if fresh is None:
                raise ProblemError("not-found", f"job {row.id!r} was deleted")
            row = fresh
    if _is_among(row, request.headers.getlist("if-none-match")):
        return Response(status_code=304, headers={"ETag": _tag(row)})
    response.headers["ETag"] = _tag(row)
    return job_resource(row)


def _tag(row: JobRow) -> str:
    return f'"{row.last_event}"'


def _is_among(row: JobRow, if_none_match: list[str]) -> bool:
    """Compare weakly (RFC 9110, 13.1.2): a proxy that compresses makes ``W/"7"`` of ``"7"``."""
    listed = ", ".join(if_none_match).strip()
    return listed == "*" or _tag(row) in re.findall(r'"[^"]*"', listed)


@router.delete(
    "/{job}",
    status_code=204,
    summary="Forget a job",
    responses=api_problems(
        "validation-failed", "not-found", "uri-not-allowed", "job-state-conflict", "cache-busy"
    ),
)
def delete_job(
    who: WritesJobs,
    row: Found,
    request: Request,
    registry: InRegistry,
    with_output: Annotated[
        bool, Query(description="delete what it has written too, committed or not (caches:write)")
    ] = False,
) -> None:
    """Forget a job that has ended. Its cache stays, unless it is asked to go."""
    if with_output:
        check_scope(who, "caches:write")
        delete_with_output(registry, row, request.app.state.settings.roots)
    else:
        registry.delete(row)


@router.get("/{job}/shards", summary="List a job's shards", responses=_OF_ITS_CACHE)
def list_job_shards(
    _: ReadsJobs,
    row: Found,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    after: Annotated[str | None, Query(description="the last name of the page before")] = None,
) -> ShardList:
    """List the shards of a job's dataset by name, each with its status."""
    return shard_resources(row, limit, after)


@router.get("/{job}/errors", summary="List what failed", responses=_OF_ITS_CACHE)
def list_job_errors(
    _: ReadsJobs,
    row: Found,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[int, Query(ge=0, le=10**12, description="how many to pass over")] = 0,
    code: Annotated[str | None, Query(description="only this error code")] = None,
) -> PairErrorList:
    """List the shards and pairs that failed."""
    return pair_errors(row.spec["output"], limit, after, code)


@router.get("/{job}/manifest", summary="Get a job's manifest", responses=_OF_ITS_CACHE)
def get_job_manifest(_: ReadsJobs, row: Found) -> Manifest:
    """Return the manifest of the cache that the job has committed."""
    cache = CacheReader.find(row.spec["output"]) if row.state is JobState.COMPLETED else None
    if cache is None:
        raise ProblemError("not-found", f"job {row.id} is {row.state}: it has no manifest yet")
    return cache.manifest


@router.get(
    "/{job}/log",
    summary="Read a job's log",
    responses=_OF_A_JOB | api_problems("unavailable"),
)
def get_job_log(
    _: ReadsJobs,
    row: Found,
    request: Request,
    limit: Annotated[int, Query(ge=1, le=10_000, description="how many lines, the last")] = 200,
) -> JobLog:
    """Return the last lines that its driver has printed."""
    return JobLog(lines=request.app.state.cluster.log(row.id, row.starts, limit))


def _no_store(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"  # beside FastAPI's own no-cache


@router.get(
    "/{job}/events",
    dependencies=[Depends(_no_store)],
    response_class=EventSourceResponse,
    summary="Follow a job",
    responses=_OF_A_JOB | EVENT_STREAM,
)
async def stream_job_events(
    who: ReadsJobs,
    row: Found,
    request: Request,
    registry: InRegistry,
    last_event_id: Annotated[
        int,
        Header(
            ge=0, le=2**31 - 1, description="send what came after this event; 0: from the first"
        ),
    ] = 0,
) -> AsyncIterator[ServerSentEvent]:
    """Send the job's events (server-sent): job.status, job.progress, shard.committed, shard.failed.

    The stream ends after the job's end, and with the key or session that it was asked for with.
    """
    changes: Changes = request.app.state.changes
    callers: Callers = request.app.state.callers
    number = last_event_id
    while True:
        current = await run_in_threadpool(registry.get, row.id)
        found = await run_in_threadpool(registry.events, row.id, number)
        if not await run_in_threadpool(callers.may_go_on, who):
            return
        for event in found:
            number = event.number
            yield ServerSentEvent(id=str(number), event=event.kind, data=event_data(event))
        ended = current is None or (current.state.terminal and number >= current.last_event)
        if ended or changes.closed:
            return
        await changes.wait(row.id, number, LOOK_SECONDS, who)
