"""A client for the REST API."""

import time
from collections.abc import Iterator
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from rhocache_schemas.api import Job, JobList, PairErrorList, Problem
from rhocache_schemas.documents import describe
from rhocache_schemas.errors import InvalidInput, ServiceError
from rhocache_schemas.job import JobSpec
from rhocache_schemas.locations import absolute
from rhocache_schemas.records import Manifest

Body = TypeVar("Body", bound=BaseModel)

DEFAULT_URL = "http://127.0.0.1:8321"


class Client:
    """Talks to one service. A context manager; close it otherwise.

    Raises InvalidInput for what is no URL.

    Every method raises ServiceError: for a problem that the service answers with (its RFC 9457
    body is the error's ``problem``), and when the service can't be reached.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout: float = 30.0) -> None:
        self.url = url.rstrip("/")
        try:
            self._http = httpx.Client(base_url=self.url, timeout=timeout)
        except httpx.InvalidURL as error:
            raise InvalidInput(f"{url!r} is not a URL: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(self, spec: JobSpec | None = None, /, **fields: Any) -> Job:
        """Submit a job, given as a JobSpec or as its fields.

        Relative paths are this process's when the service is on this machine.

        Raises InvalidInput for fields that make no JobSpec.
        """
        if spec is None:
            try:
                spec = JobSpec.model_validate(fields)
            except ValidationError as error:
                raise InvalidInput(f"job: {describe(error)}") from error
        if self._http.base_url.host in ("127.0.0.1", "localhost", "::1"):
            spec = absolute(spec)
        return self._call(Job, "POST", "/v1/jobs", json=spec.model_dump(mode="json"))

    def get(self, job: str) -> Job:
        return self._call(Job, "GET", _path(job))

    def list(
        self, *, limit: int = 20, after: str | None = None, status: str | None = None
    ) -> JobList:
        """List jobs, newest first."""
        given = {"limit": limit, "after": after, "status": status}
        chosen = {name: value for name, value in given.items() if value is not None}
        return self._call(JobList, "GET", "/v1/jobs", params=chosen)

    def cancel(self, job: str) -> Job:
        return self._call(Job, "POST", _path(job, "cancel"))

    def errors(self, job: str, *, limit: int = 100) -> PairErrorList:
        """List the pairs and shards that failed."""
        return self._call(PairErrorList, "GET", _path(job, "errors"), params={"limit": limit})

    def manifest(self, job: str) -> Manifest:
        """Give the manifest of a completed job's cache."""
        return self._call(Manifest, "GET", _path(job, "manifest"))

    def watch(self, job: str, *, seconds: float = 0.5) -> Iterator[Job]:
        """Give the job again and again, ``seconds`` apart, until it has come to an end."""
        while True:
            seen = self.get(job)
            yield seen
            if seen.status.terminal:
                return
            time.sleep(seconds)

    def _call(self, kind: type[Body], method: str, path: str, **how: Any) -> Body:
        try:
            response = self._http.request(method, path, **how)
        except httpx.TransportError as error:
            raise ServiceError(
                f"no service answers at {self.url} ({error}); start one with rhocache serve"
            ) from error
        if not response.is_success:
            raise _service_error(response)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise _stranger(response) from error


def _path(job: str, *names: str) -> str:
    return "/".join(("/v1/jobs", quote(job, safe=""), *names))


def _stranger(response: httpx.Response) -> ServiceError:
    return ServiceError(f"{response.url} answered {response.status_code}, and not as rhocache does")


def _service_error(response: httpx.Response) -> ServiceError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return _stranger(response)
    return ServiceError(f"{problem.title}: {problem.detail}", problem)
