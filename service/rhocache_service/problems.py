"""Errors as problems (RFC 9457), the framework's own among them."""

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from rhocache_schemas.api import FieldError, Problem
from rhocache_schemas.errors import InvalidInput, JobStateConflict, RhocacheError, UriNotAllowed

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
REQUEST_ID = "X-Request-Id"

TITLES = {
    "malformed-request": (400, "The request can't be read"),
    "forbidden": (403, "The request is not permitted"),
    "uri-not-allowed": (403, "A location lies outside the allowed roots"),
    "not-found": (404, "There is no such thing"),
    "job-state-conflict": (409, "The job's state does not permit this"),
    "validation-failed": (422, "The request does not fit its schema"),
    "internal": (500, "Something went wrong inside the service"),
    "unavailable": (503, "Something that the service needs is not there"),
}


class ProblemError(RhocacheError):
    """A problem to answer with; ``slug`` is one of TITLES."""

    def __init__(
        self,
        slug: str,
        detail: str,
        errors: Sequence[FieldError] = (),
        *,
        status: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.errors = list(errors)
        self.status = status or TITLES[slug][0]


def problem_response(
    request: Request, error: ProblemError, headers: dict[str, str] | None = None
) -> JSONResponse:
    problem = Problem(
        type=f"/problems/{error.slug}",
        title=TITLES[error.slug][1],
        status=error.status,
        detail=str(error),
        instance=request.url.path,
        request_id=request.state.request_id,
        errors=error.errors,
    )
    headers = {**(headers or {}), REQUEST_ID: problem.request_id}
    return JSONResponse(problem.model_dump(), error.status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    @app.exception_handler(RhocacheError)
    def own(request: Request, error: RhocacheError) -> JSONResponse:
        return problem_response(request, _as_problem(error))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem_response(request, _from_validation(error))

    @app.exception_handler(HTTPException)
    def framework(request: Request, error: HTTPException) -> JSONResponse:
        slug = "not-found" if error.status_code == 404 else "malformed-request"
        detail = f"{request.method} {request.url.path}: {error.detail}"
        problem = ProblemError(slug, detail, status=error.status_code)
        return problem_response(request, problem, dict(error.headers or {}))

    @app.exception_handler(OperationalError)
    def no_registry(request: Request, error: OperationalError) -> JSONResponse:
        log.warning("request %s: %s", request.state.request_id, error)
        return problem_response(request, ProblemError("unavailable", "the registry can't be used"))

    @app.exception_handler(Exception)
    def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("request %s: %r", request.state.request_id, error)  # the server logs the rest
        detail = "the service's log has the cause under this request_id"
        return problem_response(request, ProblemError("internal", detail))


def _as_problem(error: RhocacheError) -> ProblemError:
    match error:
        case ProblemError():
            return error
        case UriNotAllowed():
            return ProblemError("uri-not-allowed", str(error))
        case InvalidInput():
            return ProblemError("validation-failed", str(error))
        case JobStateConflict():
            return ProblemError("job-state-conflict", str(error))
        case _:
            return ProblemError("unavailable", str(error))


def _from_validation(error: RequestValidationError) -> ProblemError:
    faults: Sequence[Any] = error.errors()
    if any(fault["type"] == "json_invalid" for fault in faults):
        return ProblemError(
            "malformed-request", f"the body is not JSON: {faults[0]['ctx']['error']}"
        )
    errors = [FieldError(pointer=_pointer(fault["loc"]), detail=_detail(fault)) for fault in faults]
    listed = "; ".join(f"{e.pointer or 'body'}: {e.detail}" for e in errors)
    return ProblemError("validation-failed", listed, errors)


def _pointer(location: Sequence[str | int]) -> str:
    """A JSON pointer into the body, or the name of a parameter."""
    if location[0] != "body":
        return str(location[-1])
    escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in location[1:])
    return "".join(f"/{part}" for part in escaped)


def _detail(fault: dict[str, Any]) -> str:
    return "unknown field" if fault["type"] == "extra_forbidden" else fault["msg"]
