"""The list of jobs: those at work first, by state, and by words in what they are called by."""

from typing import Annotated, Literal

from fastapi import Query, Request

from rhocache_schemas.job.spec import JobState
from rhocache_service.api.auth import ReadsJobs
from rhocache_service.api.dependencies import InRegistry
from rhocache_service.registry.search import PAGE, find_jobs
from rhocache_service.web.named import named
from rhocache_service.web.render import page, page_router

router = page_router()


@router.get("/")
def jobs(
    _: ReadsJobs,
    request: Request,
    registry: InRegistry,
    status: JobState | Literal[""] = "",
    q: Annotated[str, Query(max_length=200)] = "",
    number: Annotated[int, Query(alias="page", ge=1, le=10**6)] = 1,
):
    state = JobState(status) if status else None
    found = find_jobs(registry.engine, q.replace("\0", ""), state, number)
    total = sum(found.counts.values())
    return page(
        "jobs.html",
        request,
        jobs=[named(row, found.owners) for row in found.rows],
        counts={each: n for each, n in found.counts.items() if n or each == state},
        total=total,
        chosen=status,
        q=q,
        number=number,
        pages=max(1, -(-(found.counts[state] if state else total) // PAGE)),
    )
