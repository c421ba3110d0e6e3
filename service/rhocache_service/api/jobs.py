"""``/v1/jobs``."""

import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from rhocache_schemas import layout, storage
from rhocache_schemas.api import (
    AnySubmission,
    Job,
    JobList,
    PairErrorList,
    ShardList,
    Validation,
)
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.job.spec import JobState
from rhocache_service.api.auth import ReadsJobs, WritesJobs, unauthenticated
from rhocache_service.api.dependencies import Found, InRegistry, WithSubmissions
from rhocache_service.caches.failures import pair_errors
from rhocache_service.http import root_paths
from rhocache_service.http.problems import ProblemError
from rhocache_service.jobs.kinds import kind_of
from rhocache_service.jobs.resource import job_resource
from rhocache_service.registry.callers import Caller, Callers
from rhocache_service.registry.idempotency import Answer, Answers, InFlight, KeyReused
from rhocache_service.registry.notifier import Changes
from rhocache_service.registry.tables import JobRow

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

LONGEST_WAIT = 60
HEARTBEAT_SECONDS = 15
_RETRY_AFTER = {"Retry-After": "1"}  # when there may be news of a job that was just taken

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="a request that is sent again with the same key is answered the same, and done "
        "once; kept for 24 hours",
    ),
]


@router.post("", status_code=202, summary="Submit a job")
def submit(
    who: WritesJobs,
    submission: AnySubmission,
    request: Request,
    response: Response,
    submissions: WithSubmissions,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Take a job, of the ``kind`` that it names: score a dataset with a reference into a cache.

    A job that does the same as one that has not ended goes along with it (``follows``).
    """

    def take() -> JobRow:
        return submissions.add(submission, submissions.admit(submission), who)

    return _once(request, response, who, idempotency_key, submission.model_dump_json(), take)


def _once(
    request: Request,
    response: Response,
    who: Caller,
    key: str | None,
    body: str,
    take: Any,
) -> Job:
    """Answer a request that makes a job; a repeated one as it was answered before."""
    answers_: Answers = request.app.state.answers
    if key is not None:
        given = _begin(answers_, who.key or "", key, f"{request.url.path}\n{body}".encode())
        if given is not None:
            response.headers.update(given.headers)
            return Job.model_validate_json(given.body)
    try:
        job = job_resource(take())
    except BaseException:
        if key is not None:
            answers_.end(who.key or "", key, None)
        raise
    place = f"{root_paths.root(request)}/v1/jobs/{job.id}"
    headers = {"Location": place, **_RETRY_AFTER}
    response.headers.update(headers)
    if key is not None:
        answers_.end(who.key or "", key, Answer(202, headers, job.model_dump_json()))
    return job


def _begin(answers_: Answers, api_key: str, key: str, request: bytes) -> Answer | None:
    try:
        return answers_.begin(api_key, key, request)
    except InFlight:
        detail = "a request with this Idempotency-Key is being answered"
        raise ProblemError("idempotency-in-flight", detail, headers=_RETRY_AFTER) from None
    except KeyReused:
        detail = "this Idempotency-Key was sent with another request before"
        raise ProblemError("idempotency-key-reused", detail) from None


@router.get("", summary="List jobs")
def list_jobs(
    _: ReadsJobs,
    registry: InRegistry,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(description="the last id of the page before")] = None,
    status: JobState | None = None,
) -> JobList:
    """List jobs, newest first."""
    last = None if after is None else registry.get(after)
    if after is not None and last is None:
        raise ProblemError("not-found", f"no job {after!r} to list after")
    rows = registry.newest(limit + 1, last, status)
    jobs = [job_resource(row) for row in rows[:limit]]
    return JobList(
        data=jobs,
        first_id=jobs[0].id if jobs else None,
        last_id=jobs[-1].id if jobs else None,
        has_more=len(rows) > limit,
    )


@router.get("/{job}", summary="Get a job")
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
    """Give a job with its progress; 304 where nothing has changed since ``If-None-Match``."""
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


@router.delete("/{job}", status_code=204, summary="Forget a job")
def delete(_: WritesJobs, row: Found, registry: InRegistry) -> None:
    """Forget a job that has ended. Its cache stays."""
    registry.delete(row)


@router.post("/{job}/cancel", status_code=202, summary="Cancel a job")
def cancel(_: WritesJobs, row: Found, registry: InRegistry) -> Job:
    """Stop a job. What it has committed stays, and a later job goes on from there."""
    return job_resource(registry.advance(row, JobState.CANCELLING, stopped_by="request"))


@router.post("/{job}/retry", status_code=202, summary="Try again")
def retry(
    who: WritesJobs,
    row: Found,
    request: Request,
    response: Response,
    submissions: WithSubmissions,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Add a job that does what one at an end has left: its missing and failed shards, and those
    with rows that another try may mend."""
    return _once(request, response, who, idempotency_key, "", lambda: submissions.retry(row, who))


@router.get("/{job}/shards", summary="List a job's shards")
def shards(
    _: ReadsJobs,
    row: Found,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    after: Annotated[str | None, Query(description="the last name of the page before")] = None,
) -> ShardList:
    """List the shards of a job's dataset by name, each pending, committed or failed."""
    spec = row.job_spec()
    return kind_of(spec).shards(spec, limit, after)


@router.get("/{job}/errors", summary="List what failed")
def errors(
    _: ReadsJobs,
    row: Found,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[int, Query(ge=0, le=10**12, description="how many to pass over")] = 0,
    code: Annotated[str | None, Query(description="only this error code")] = None,
) -> PairErrorList:
    """List the shards and pairs that failed."""
    return pair_errors(row.spec["output"], limit, after, code)


@router.get("/{job}/manifest", summary="Get a job's manifest")
def manifest(_: ReadsJobs, row: Found) -> Manifest:
    """Give the manifest of the cache that the job has committed."""
    uri = layout.manifest_file(row.spec["output"])
    if row.state is not JobState.COMPLETED or not storage.exists(uri):
        raise ProblemError("not-found", f"job {row.id} is {row.state}: it has no manifest yet")
    return Manifest.read(uri)


@router.get(
    "/{job}/events",
    response_class=EventSourceResponse,
    summary="Follow a job",
)
async def events(
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
) -> EventSourceResponse:
    """Send the job's events (server-sent): job.status, job.progress, shard.committed, shard.failed.

    The stream ends after the job's end, and with the key or session that it was asked for with.
    """
    changes: Changes = request.app.state.changes
    callers: Callers = request.app.state.callers

    async def stream() -> AsyncIterator[ServerSentEvent]:
        number = last_event_id
        while True:
            current = await run_in_threadpool(registry.get, row.id)
            found = await run_in_threadpool(registry.events, row.id, number)
            if not await run_in_threadpool(callers.may_go_on, who):
                return
            for event in found:
                number = event.number
                data = json.dumps(event.data | {"at": event.at})
                yield ServerSentEvent(id=str(number), event=event.kind, data=data)
            ended = current is None or (current.state.terminal and number >= current.last_event)
            if ended or changes.closed:
                return
            await changes.wait(row.id, number, HEARTBEAT_SECONDS, who)

    return EventSourceResponse(stream(), ping=HEARTBEAT_SECONDS, shutdown_grace_period=5)


validation_router = APIRouter(tags=["jobs"])


@validation_router.post("/v1/jobs:validate", summary="Look at a job without running it")
def validate_job(
    _: WritesJobs, submission: AnySubmission, submissions: WithSubmissions
) -> Validation:
    """Tell what a job would do: shards, those done already, and the bytes that it would take."""
    return submissions.preview(submission)
