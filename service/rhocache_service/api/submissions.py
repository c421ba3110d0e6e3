"""``/v1/jobs`` (POST), ``/v1/jobs:validate``, ``/v1/models``: submits, cancels and retries jobs,
and lists the models that open_clip can load."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from rhocache_schemas.api import AnySubmission, Job, Model, ModelList, Validation
from rhocache_schemas.errors import TooManyJobs
from rhocache_schemas.job.spec import JobState
from rhocache_schemas.models import known_models
from rhocache_service.api.auth import ReadsJobs, WritesJobs
from rhocache_service.api.dependencies import Found, InRegistry, WithSubmissions
from rhocache_service.http.addresses import root_path
from rhocache_service.http.openapi import JOB, NEW_JOB, NEW_JOB_HEADERS, Responses, api_problems
from rhocache_service.http.problems import as_problem
from rhocache_service.http.rate_limits import rate_limit_headers
from rhocache_service.jobs.resource import job_resource
from rhocache_service.jobs.submit import Submissions
from rhocache_service.registry.callers import Caller
from rhocache_service.registry.idempotency import Answer, Answers
from rhocache_service.registry.tables import JobRow

router = APIRouter(prefix="/v1")

_RETRY_AFTER = {"Retry-After": "1"}  # when there may be news of a job that was just taken

# What can be done with the job that is answered, for tools that follow links.
_LINKED = (
    "get_job", "cancel_job", "retry_job", "list_job_shards", "list_job_errors", "get_job_manifest",
    "delete_job",
)  # fmt: skip
_JOB: Responses = {
    202: {
        "links": {
            name: {"operationId": name, "parameters": {"job": "$response.body#/id"}}
            for name in _LINKED
        }
    }
}
_NEW_JOB: Responses = {202: _JOB[202] | {"headers": NEW_JOB_HEADERS}}

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="a request that is sent again with the same key is answered the same, and done "
        "once; kept for 24 hours",
    ),
]


@router.post(
    "/jobs",
    tags=["jobs"],
    status_code=202,
    summary="Submit a job",
    responses=_NEW_JOB | api_problems(*JOB, "fingerprint-mismatch", "table-mismatch", *NEW_JOB),
)
def submit_job(
    who: WritesJobs,
    submission: AnySubmission,
    request: Request,
    response: Response,
    submissions: WithSubmissions,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Take a job, of the ``kind`` that it names: score a dataset with a reference into a cache.

    A job that does the same as one that has not ended is deduplicated: it ``follows`` that job and
    shares its result.
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
    take: Callable[[], JobRow],
) -> Job:
    """Answer a request that makes a job; a repeated one as it was answered before."""
    submissions: Submissions = request.app.state.submissions
    answers: Answers = request.app.state.answers
    if key is not None:
        given = answers.begin(who.key or "", key, f"{request.url.path}\n{body}".encode())
        if given is not None:
            response.headers.update(given.headers | {"Idempotent-Replayed": "true"})
            return Job.model_validate_json(given.body)
    try:
        job = job_resource(take())
    except BaseException as error:
        if key is not None:
            answers.end(who.key or "", key, None)
        if isinstance(error, TooManyJobs):
            problem = as_problem(error)
            problem.headers |= rate_limit_headers(submissions.limits(who))
            raise problem from error
        raise
    place = f"{root_path(request)}/v1/jobs/{job.id}"
    headers = {"Location": place, **_RETRY_AFTER}
    response.headers.update(headers | rate_limit_headers(submissions.limits(who)))
    if key is not None:
        answers.end(who.key or "", key, Answer(202, headers, job.model_dump_json()))
    return job


@router.post(
    "/jobs:validate",
    tags=["jobs"],
    summary="Look at a job without running it",
    responses=api_problems(
        *JOB,
        "not-found",
        "fingerprint-mismatch",
        "dataset-mismatch",
        "table-mismatch",
        "cache-corrupt",
    ),
)
def validate_job(
    _: WritesJobs, submission: AnySubmission, submissions: WithSubmissions
) -> Validation:
    """Tell what a job would do: shards, those committed before, and what it will take."""
    return submissions.preview(submission)


@router.post(
    "/jobs/{job}/cancel",
    tags=["jobs"],
    status_code=202,
    summary="Cancel a job",
    responses=_JOB | api_problems("validation-failed", "not-found", "job-state-conflict"),
)
def cancel_job(_: WritesJobs, row: Found, registry: InRegistry) -> Job:
    """Stop a job. What it has committed stays, and a later job goes on from there."""
    return job_resource(registry.advance(row, JobState.CANCELLING, stopped_by="request"))


@router.post(
    "/jobs/{job}/retry",
    tags=["jobs"],
    status_code=202,
    summary="Try again",
    responses=_NEW_JOB
    | api_problems("validation-failed", "not-found", "job-state-conflict", *NEW_JOB),
)
def retry_job(
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


@router.get("/models", tags=["models"], summary="List models", responses=api_problems())
def list_models(_: ReadsJobs) -> ModelList:
    """List open_clip's architectures with their pretrained weights.

    ``local-dir:PATH`` and ``hf-hub:ORG/REPO`` name others.
    """
    found = [Model(id=name, **known) for name, known in known_models().items()]
    return ModelList.of(found, len(found), [model.id for model in found])
