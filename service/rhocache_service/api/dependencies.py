"""Dependencies that routes of several files share: parameters, and parts of the application."""

from typing import Annotated

from fastapi import Depends, Query, Request

from rhocache_service.http.problems import ProblemError
from rhocache_service.jobs.submit import Submissions
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import JobRow


def _registry(request: Request) -> Registry:
    return request.app.state.registry


def _submissions(request: Request) -> Submissions:
    return request.app.state.submissions


def _row(request: Request, job: str) -> JobRow:
    row = _registry(request).get(job)
    if row is None:
        raise ProblemError("not-found", f"no job {job!r}")
    return row


After = Annotated[str | None, Query(description="the last id of the page before")]
InRegistry = Annotated[Registry, Depends(_registry)]
WithSubmissions = Annotated[Submissions, Depends(_submissions)]
Found = Annotated[JobRow, Depends(_row)]
