"""The requests that the REST API takes: what both clients send, and what they make of answers."""

import os
import secrets
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from rhocache_schemas.api import (
    CachedPair,
    CachedPairList,
    CacheList,
    Event,
    Job,
    JobList,
    ModelList,
    PairErrorList,
    Problem,
    ShardList,
    Submission,
    Validation,
)
from rhocache_schemas.documents import describe
from rhocache_schemas.errors import InvalidInput, ServiceError
from rhocache_schemas.locations import absolute
from rhocache_schemas.loopback import is_loopback
from rhocache_schemas.records import Manifest

Body = TypeVar("Body", bound=BaseModel)
Connection = TypeVar("Connection", httpx.Client, httpx.AsyncClient)

API_KEY = "RHOCACHE_API_KEY"  # the environment variable
ATTEMPTS = 4
LONG_POLL_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Call(Generic[Body]):
    kind: type[Body]
    method: str
    path: str
    params: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        chosen = {name: value for name, value in self.params.items() if value is not None}
        return http.build_request(
            self.method, self.path, params=chosen, json=self.body, headers=self.headers
        )

    def read(self, response: httpx.Response) -> Body:
        """Raises ServiceError for a problem, and for what is no answer of this service."""
        if not response.is_success:
            raise service_error(response)
        try:
            return self.kind.model_validate_json(response.content)
        except ValidationError as error:
            raise _stranger(response) from error


def connection(
    kind: type[Connection], direct: Any, url: str, api_key: str | None, timeout: float
) -> Connection:
    """A client of httpx that sends the API key, that of the environment where None is given.

    What the environment says of proxies is not meant for this machine: there ``direct`` is used,
    the kind's own transport. Raises InvalidInput.
    """
    headers = _key_header(api_key)
    try:
        transport = direct() if is_loopback(httpx.URL(url).host) else None
        return kind(base_url=url, timeout=timeout, headers=headers, transport=transport)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"{url!r} is not a URL: {error}") from error
    except (ValueError, ImportError) as error:
        raise InvalidInput(f"the environment's proxy can't be used: {error}") from error


def _key_header(api_key: str | None) -> dict[str, str]:
    key = (os.environ.get(API_KEY, "") if api_key is None else api_key).strip()
    if not key:
        return {}
    if not (key.isascii() and key.isprintable()):  # and not told: it may be a key all the same
        raise InvalidInput("the API key has characters that no key has; see rhocache keys create")
    return {"Authorization": f"Bearer {key}"}


def seconds_to_wait(attempt: int, response: httpx.Response | None) -> float | None:
    """Until a request is worth sending again; None where it is not.

    Every request may be sent twice: those that make a job carry an Idempotency-Key.
    """
    if attempt + 1 >= ATTEMPTS:
        return None
    if response is None or response.status_code == 503:
        return min(5.0, 0.2 * 2**attempt)
    if response.status_code == 429 or (
        response.status_code == 409 and b"idempotency-in-flight" in response.content
    ):
        return float(response.headers.get("Retry-After", 1))
    return None


def submission(spec: BaseModel | None, fields: dict[str, Any], host: str) -> Submission:
    """Raises InvalidInput for fields that make no job."""
    given = fields if spec is None else spec.model_dump() | fields
    try:
        made = Submission.model_validate(given)
    except ValidationError as error:
        raise InvalidInput(f"job: {describe(error)}") from error
    return absolute(made) if is_loopback(host) else made  # relative paths are this process's


def submit(made: Submission) -> Call[Job]:
    return Call(Job, "POST", "/v1/jobs", body=made.model_dump(mode="json"), headers=_new_key())


def validate(made: Submission) -> Call[Validation]:
    return Call(Validation, "POST", "/v1/jobs:validate", body=made.model_dump(mode="json"))


def get(job: str, seen: str | None = None) -> Call[Job]:
    """``seen``: the ETag of what is known already; the answer then waits for something newer."""
    if seen is None:
        return Call(Job, "GET", _job(job))
    params = {"wait": LONG_POLL_SECONDS}
    return Call(Job, "GET", _job(job), params=params, headers={"If-None-Match": seen})


def list_jobs(limit: int, after: str | None, status: str | None) -> Call[JobList]:
    params = {"limit": limit, "after": after, "status": status}
    return Call(JobList, "GET", "/v1/jobs", params=params)


def cancel(job: str) -> Call[Job]:
    return Call(Job, "POST", _job(job, "cancel"))


def retry(job: str) -> Call[Job]:
    return Call(Job, "POST", _job(job, "retry"), headers=_new_key())


def shards(job: str, limit: int, after: str | None) -> Call[ShardList]:
    return Call(ShardList, "GET", _job(job, "shards"), params={"limit": limit, "after": after})


def errors(job: str, limit: int, after: int, code: str | None) -> Call[PairErrorList]:
    params = {"limit": limit, "after": after, "code": code}
    return Call(PairErrorList, "GET", _job(job, "errors"), params=params)


def job_manifest(job: str) -> Call[Manifest]:
    return Call(Manifest, "GET", _job(job, "manifest"))


def delete(job: str) -> Call[Job]:
    return Call(Job, "DELETE", _job(job))


def events(job: str, after: int) -> Call[Event]:
    return Call(Event, "GET", _job(job, "events"), headers={"Last-Event-ID": str(after)})


def list_caches(limit: int, after: str | None) -> Call[CacheList]:
    return Call(CacheList, "GET", "/v1/caches", params={"limit": limit, "after": after})


def cache_manifest(cache: str) -> Call[Manifest]:
    return Call(Manifest, "GET", _cache(cache))


def pairs(cache: str, key: str | None, order: str, after: int, limit: int) -> Call[CachedPairList]:
    params = {"key": key, "order": order, "after": after, "limit": limit}
    return Call(CachedPairList, "GET", _cache(cache, "pairs"), params=params)


def picture(cache: str, shard: str, row: int) -> Call[CachedPair]:
    params = {"shard": shard, "row": row}
    return Call(CachedPair, "GET", _cache(cache, "pictures"), params=params)


def file(cache: str, name: str) -> str:
    return _cache(cache, "files", *name.split("/"))


def list_models() -> Call[ModelList]:
    return Call(ModelList, "GET", "/v1/models")


def no_service(url: str, error: Exception) -> ServiceError:
    return ServiceError(f"no service answers at {url} ({error}); start one with rhocache serve")


def service_error(response: httpx.Response) -> ServiceError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return _stranger(response)
    told = f"{problem.title}: {problem.detail}"
    if problem.status == httpx.codes.UNAUTHORIZED:
        told += f"; give --api-key or set {API_KEY}"
    return ServiceError(told, problem)


def _stranger(response: httpx.Response) -> ServiceError:
    return ServiceError(f"{response.url} answered {response.status_code}, and not as rhocache does")


def _job(job: str, *names: str) -> str:
    return "/".join(("/v1/jobs", quote(job, safe=""), *names))


def _cache(cache: str, *names: str) -> str:
    return "/".join(("/v1/caches", *(quote(name, safe="") for name in (cache, *names))))


def _new_key() -> dict[str, str]:
    return {"Idempotency-Key": secrets.token_hex(16)}
