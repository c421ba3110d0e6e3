"""Turns errors, the framework's own among them, into problem documents (RFC 9457)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Mount

from rhocache_schemas.errors import (
    Abandoned,
    CacheBusy,
    CacheCorrupt,
    CacheIncomplete,
    CacheNotFound,
    DatasetError,
    DatasetMismatch,
    FieldError,
    FingerprintMismatch,
    IdempotencyKeyReused,
    InvalidInput,
    JobStateConflict,
    MissingPair,
    Problem,
    RequestInFlight,
    RhocacheError,
    TableMismatch,
    TooManyJobs,
    UriNotAllowed,
    WebhookNotAllowed,
)
from rhocache_service.http.addresses import root_path

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
REQUEST_ID = "X-Request-Id"
_CLIENT_GONE = 499


@dataclass(frozen=True, slots=True)
class Kind:
    status: int
    title: str
    meaning: str  # and what to do; the page that a problem's ``type`` names


KINDS = {
    "malformed-request": Kind(
        400,
        "The request can't be read",
        "The body is not JSON, or the request is not HTTP as this service speaks it. Mend the "
        "request; sending it again will not help.",
    ),
    "unauthenticated": Kind(
        401,
        "An API key is needed",
        "The service has API keys, and the request carries none, or one that is unknown, expired "
        "or revoked. Send `Authorization: Bearer KEY`. Whoever runs the service makes one with "
        "`rhocache keys create`.",
    ),
    "forbidden": Kind(
        403,
        "The request is not permitted",
        "The API key lacks the scope that `detail` names, or the request came under a host name "
        "or from a page that this service does not answer to.",
    ),
    "uri-not-allowed": Kind(
        403,
        "A location lies outside the allowed roots",
        "A dataset, an output or a model lies, once its links are followed, outside the places "
        "that the service was started with (`--allow-root`).",
    ),
    "webhook-not-allowed": Kind(
        403,
        "The webhook's host is not allowed",
        "Webhooks go by https, and only to hosts that the service was started with "
        "(`RHOCACHE_WEBHOOK_HOST`). Name one of those, or ask whoever runs the service for yours.",
    ),
    "not-found": Kind(
        404,
        "There is no such thing",
        "No job, cache, shard, pair or page is there under this name.",
    ),
    "job-state-conflict": Kind(
        409,
        "The job's state does not permit this",
        "A job that has ended can't be cancelled, and one that has not can't be retried or "
        "deleted. Look at its `status`.",
    ),
    "cache-busy": Kind(
        409,
        "A job is at work on the cache",
        "A job that has not ended writes this cache or reads it. Cancel the job, or wait for its "
        "end.",
    ),
    "fingerprint-mismatch": Kind(
        409,
        "The cache was begun with another reference",
        "The output holds a cache that was begun with another reference, preprocessing, precision, "
        "dtype or caption field. Use another output, or submit what the cache was begun with.",
    ),
    "dataset-mismatch": Kind(
        409,
        "The cache holds another dataset",
        "Most of the output's shards have other contents in this dataset, or none of them is in "
        "it. Use another output; or submit with `replace`, which gives up what the output holds.",
    ),
    "table-mismatch": Kind(
        409,
        "The output holds another table, or a cache",
        "The output holds what was made from another cache or with other options; `detail` names "
        "what differs. Use another output; or submit with `replace`, which gives up the table.",
    ),
    "cache-corrupt": Kind(
        409,
        "The cache is damaged",
        "A file of the cache differs from the hash that its index or manifest has of it; `detail` "
        "names it. `rhocache verify --repair` mends it where the cache lies; or submit a job with "
        "`replace`, which keeps of the cache what is whole and what the job asks for.",
    ),
    "idempotency-in-flight": Kind(
        409,
        "The same request is being answered",
        "A request with this Idempotency-Key has not been answered yet. Send it again after the "
        "seconds in `Retry-After`.",
    ),
    "payload-too-large": Kind(
        413, "The body is too large", "A request's body may have as many bytes as `detail` says."
    ),
    "unsupported-media-type": Kind(
        415,
        "The body is not of a type that is understood",
        "Send JSON, with `Content-Type: application/json`.",
    ),
    "validation-failed": Kind(
        422,
        "The request does not fit its schema",
        "`errors` names each field, by a JSON pointer into the body or by a parameter's name, and "
        "what is wrong with it.",
    ),
    "idempotency-key-reused": Kind(
        422,
        "The Idempotency-Key was sent with another request",
        "Within 24 hours a key stands for one request. Use a new one for another request.",
    ),
    "rate-limited": Kind(
        429,
        "Too many requests",
        "The API key has submitted as many jobs as it may in a minute. Send the request again "
        "after the seconds in `Retry-After`.",
    ),
    "queue-full": Kind(
        429,
        "Too many jobs wait",
        "As many jobs of this API key wait as may. Send the request again when some have begun; "
        "`Retry-After` is a guess.",
    ),
    "internal": Kind(
        500,
        "Something went wrong inside the service",
        "This is a defect of the service. Its log has the cause under `request_id`; "
        "please report it.",
    ),
    "unavailable": Kind(
        503,
        "Something that the service needs is not there",
        "The registry, Ray or the storage can't be reached just now. Try again later.",
    ),
}


class ProblemError(RhocacheError):
    """A problem to answer with; ``slug`` is one of KINDS."""

    def __init__(
        self,
        slug: str,
        detail: str,
        errors: Sequence[FieldError] = (),
        *,
        status: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.errors = list(errors)
        self.status = status or KINDS[slug].status
        self.headers = headers or {}


class BrokenOff(Exception):
    """An answer that has begun must end here, and its receiver must notice."""


def problem_response(request: Request, error: ProblemError) -> Response:
    """Answer with a problem document, or where a browser asks for a page with that."""
    if "text/html" in request.headers.get("accept", ""):
        shown: Response = request.app.state.problem_page(request, error)
        shown.headers.update({REQUEST_ID: request.state.request_id, "Vary": "Accept"})
        return shown
    problem = Problem(
        type=f"{root_path(request)}/problems/{error.slug}",
        title=KINDS[error.slug].title,
        status=error.status,
        detail=str(error),
        instance=request.url.path,
        request_id=request.state.request_id,
        errors=error.errors,
    )
    headers = error.headers | {REQUEST_ID: problem.request_id, "Vary": "Accept"}
    return JSONResponse(problem.model_dump(), error.status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    @app.exception_handler(RhocacheError)
    @app.exception_handler(RequestValidationError)
    def own(request: Request, error: RhocacheError | RequestValidationError) -> Response:
        return problem_response(request, as_problem(error))

    @app.exception_handler(HTTPException)
    def framework(request: Request, error: HTTPException) -> Response:
        slug = "not-found" if error.status_code == 404 else "malformed-request"
        detail = f"{request.method} {request.url.path}: {error.detail}"
        headers = dict(error.headers or {})
        if error.status_code == 405:  # the framework names those of the first route alone
            headers["Allow"] = ", ".join(sorted(_methods(request)))
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
        problem = ProblemError(slug, detail, status=error.status_code, headers=headers)
        return problem_response(request, problem)

    @app.exception_handler(OperationalError)
    def no_registry(request: Request, error: OperationalError) -> Response:
        log.warning("request %s: %s", request.state.request_id, error.orig)
        return problem_response(request, ProblemError("unavailable", "the registry can't be used"))

    @app.exception_handler(Exception)
    def unforeseen(request: Request, error: Exception) -> Response:
        log.error("request %s: %r", request.state.request_id, error)  # the server logs the rest
        detail = "the service's log has the cause under this request_id"
        return problem_response(request, ProblemError("internal", detail))


def _methods(request: Request) -> set[str]:
    """Those of every route to the request's path."""
    found = {"OPTIONS"}
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        scope = {**request.scope, "root_path": root_path(request), "method": method}
        for route in request.app.routes:
            static = isinstance(route, Mount) and method != "GET"
            if not static and route.matches(scope)[0] is Match.FULL:
                found.add(method)
    return found | {"HEAD"} if "GET" in found else found


def as_problem(error: RhocacheError | RequestValidationError) -> ProblemError:  # noqa: C901 (a table)
    match error:
        case ProblemError():
            return error
        case Abandoned():  # read by nobody, but counted and logged as what it is
            return ProblemError("unavailable", str(error), status=_CLIENT_GONE)
        case RequestValidationError():
            return _from_validation(error)
        case UriNotAllowed():
            return ProblemError("uri-not-allowed", str(error))
        case WebhookNotAllowed():
            return ProblemError("webhook-not-allowed", str(error))
        case InvalidInput():
            return ProblemError("validation-failed", str(error))
        case RequestInFlight():
            return ProblemError(error.code, str(error), headers={"Retry-After": "1"})
        case IdempotencyKeyReused():
            return ProblemError(error.code, str(error))
        case JobStateConflict():
            return ProblemError("job-state-conflict", str(error))
        case TooManyJobs():
            headers = {"Retry-After": str(error.retry_after)}
            return ProblemError(error.code, str(error), headers=headers)
        case CacheBusy():
            return ProblemError(error.code, str(error))
        case FingerprintMismatch():
            return ProblemError("fingerprint-mismatch", str(error))
        case TableMismatch():
            return ProblemError("table-mismatch", str(error))
        case DatasetMismatch():
            return ProblemError("dataset-mismatch", str(error))
        case CacheCorrupt():
            return ProblemError("cache-corrupt", str(error))
        case DatasetError() | CacheNotFound() | CacheIncomplete() | MissingPair():
            return ProblemError("not-found", str(error))
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
