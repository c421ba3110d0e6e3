"""Builds the requests of the REST API and parses its answers, for both clients."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

import httpx
from httpx_sse import ServerSentEvent
from pydantic import BaseModel, ValidationError

from rhocache_schemas.api import (
    CachedPair,
    CachedPairList,
    CacheList,
    CacheSummary,
    Job,
    JobList,
    JobLog,
    ModelList,
    PairErrorList,
    ShardList,
    Submission,
    Validation,
    read_submission,
)
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.documents import describe
from rhocache_schemas.errors import InvalidInput, Problem, ServiceError
from rhocache_schemas.events import EVENTS, Event, JobStatusEvent
from rhocache_schemas.job.fields import write_note
from rhocache_schemas.job.paths import absolute
from rhocache_schemas.network import is_loopback

Body = TypeVar("Body", bound=BaseModel)
Connection = TypeVar("Connection", httpx.Client, httpx.AsyncClient)

API_KEY = "RHOCACHE_API_KEY"  # the environment variable
DEFAULT_URL = "http://127.0.0.1:8321"
LONG_POLL_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Call(Generic[Body]):
    kind: type[Body]
    method: str
    path: str
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    body: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        chosen = {name: value for name, value in self.params.items() if value is not None}
        return http.build_request(
            self.method, self.path, params=chosen, json=self.body, headers=self.headers
        )

    def following(self, last_id: str | None) -> Self:
        """The call for the page of a list that comes after the one with this ``last_id``."""
        return replace(self, params=self.params | {"after": last_id})

    def read(self, response: httpx.Response) -> Body:
        """Raises ServiceError for a problem, and for what is no answer of this service."""
        if not response.is_success:
            raise service_error(response)
        try:
            return self.kind.model_validate_json(response.content)
        except ValidationError as error:
            raise stranger(response) from error


def connection(
    kind: type[Connection], direct: Any, url: str, api_key: str | None, timeout: float
) -> Connection:
    """A client of httpx that sends the API key, that of the environment where None is given.

    What the environment says of proxies is not meant for this machine: there ``direct`` is used,
    the kind's own transport. Raises InvalidInput.
    """
    known = headers(api_key)
    transport = direct() if is_loopback(httpx.URL(url).host) else None
    try:
        return kind(base_url=url, timeout=timeout, headers=known, transport=transport)
    except (ValueError, ImportError) as error:
        raise InvalidInput(f"the environment's proxy can't be used: {error}") from error


def checked_url(url: str) -> str:
    """Return the URL without a slash at its end, or the default one for nothing.

    Raises InvalidInput for what is no URL of a service.
    """
    try:
        parsed = httpx.URL(url.strip() or DEFAULT_URL)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"{url!r} is not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidInput(f"{url!r} is not a URL of a service, like {DEFAULT_URL}")
    return str(parsed).rstrip("/")


def headers(api_key: str | None) -> dict[str, str]:
    """Raises InvalidInput for a key that no header can carry."""
    key = (os.environ.get(API_KEY, "") if api_key is None else api_key).strip()
    if not (key.isascii() and key.isprintable()):
        raise InvalidInput("the API key has characters that no API key has")
    return {"Authorization": f"Bearer {key}"} if key else {}


def submission(spec: BaseModel | None, fields: dict[str, Any], host: str) -> Submission:
    """Raises InvalidInput for fields that make no job."""
    given = fields if spec is None else spec.model_dump() | fields
    try:
        made = read_submission(given)
    except ValidationError as error:
        raise InvalidInput(f"job: {describe(error)}") from error
    return absolute(made) if is_loopback(host) else made  # relative paths are this process's


def submit(made: Submission) -> Call[Job]:
    return Call(Job, "POST", "/v1/jobs", body=made.model_dump(mode="json"), headers=_new_key())


def validate(made: Submission) -> Call[Validation]:
    return Call(Validation, "POST", "/v1/jobs:validate", body=made.model_dump(mode="json"))


def get(job: str) -> Call[Job]:
    return Call(Job, "GET", _job(job))


def get_newer(job: str, seen: str | None, timeout: float) -> Call[Job]:
    """``seen``: the ETag of what is known already, if there was one.

    The answer waits for something newer, for less than the client's timeout in seconds.
    """
    params = {"wait": int(min(LONG_POLL_SECONDS, timeout / 2))}
    return Call(
        Job, "GET", _job(job), params=params, headers={"If-None-Match": seen} if seen else {}
    )


def list_jobs(
    limit: int, after: str | None, status: str | None, metadata: Mapping[str, str] | None
) -> Call[JobList]:
    """``metadata``: what the listed jobs were given, among other things."""
    params: dict[str, Any] = {"limit": limit, "after": after, "status": status}
    params["metadata"] = [write_note(*item) for item in (metadata or {}).items()]
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


def log(job: str, limit: int) -> Call[JobLog]:
    return Call(JobLog, "GET", _job(job, "log"), params={"limit": limit})


def job_manifest(job: str) -> Call[Manifest]:
    return Call(Manifest, "GET", _job(job, "manifest"))


def delete(job: str, *, with_output: bool) -> Call[Job]:
    params = {"with_output": "true"} if with_output else {}
    return Call(Job, "DELETE", _job(job), params=params)


def events(job: str, after: int) -> Call[Event]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    headers["Last-Event-ID"] = str(after)
    return Call(Event, "GET", _job(job, "events"), headers=headers)


def read_event(sent: ServerSentEvent) -> Event | None:
    """None for a kind that only a newer service knows. Raises ValueError for what is no event."""
    if sent.event not in EVENTS:
        return None
    data = EVENTS[sent.event].model_validate_json(sent.data)
    return Event(id=int(sent.id), event=sent.event, data=data)


def is_end(event: Event) -> bool:
    return isinstance(event.data, JobStatusEvent) and event.data.status.terminal


def list_caches(limit: int, after: str | None) -> Call[CacheList]:
    return Call(CacheList, "GET", "/v1/caches", params={"limit": limit, "after": after})


def cache_manifest(cache: str) -> Call[Manifest]:
    return Call(Manifest, "GET", _cache(cache))


def keep_cache(cache: str, until: int | None) -> Call[CacheSummary]:
    return Call(CacheSummary, "PATCH", _cache(cache), body={"expires_at": until})


def delete_cache(cache: str) -> Call[CacheSummary]:
    return Call(CacheSummary, "DELETE", _cache(cache))


def pairs(cache: str, key: str | None, order: str, after: int, limit: int) -> Call[CachedPairList]:
    params = {"key": key, "order": order, "after": after, "limit": limit}
    return Call(CachedPairList, "GET", _cache(cache, "pairs"), params=params)


def picture(cache: str, shard: str, row: int) -> Call[CachedPair]:
    params = {"shard": shard, "row": row}
    return Call(CachedPair, "GET", _cache(cache, "pictures"), params=params)


def file(cache: str, name: str) -> Call[Manifest]:
    return Call(Manifest, "GET", _cache(cache, "files", *name.split("/")))


def list_models() -> Call[ModelList]:
    return Call(ModelList, "GET", "/v1/models")


def no_service(url: str, error: Exception) -> ServiceError:
    return ServiceError(f"no service answers at {url} ({error}); start one with rhocache serve")


def broken_off(url: str, error: Exception) -> ServiceError:
    return ServiceError(f"the answer of {url} broke off: {error}")


def service_error(response: httpx.Response) -> ServiceError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return stranger(response)
    told = f"{problem.title}: {problem.detail}"
    if problem.status == HTTPStatus.UNAUTHORIZED:
        told += f"; give --api-key or set {API_KEY}"
    return ServiceError(told, problem)


def stranger(response: httpx.Response) -> ServiceError:
    return ServiceError(f"{response.url} answered {response.status_code}, and not as rhocache does")


def _job(job: str, *names: str) -> str:
    return "/".join(("/v1/jobs", quote(job, safe=""), *names))


def _cache(cache: str, *names: str) -> str:
    return "/".join(("/v1/caches", *(quote(name, safe="") for name in (cache, *names))))


def _new_key() -> dict[str, str]:
    return {"Idempotency-Key": secrets.token_hex(16)}
