"""A client for the REST API."""

import time
from collections.abc import Iterator
from typing import Any, Self

import httpx
from httpx_sse import connect_sse

from rhocache import calls
from rhocache.calls import Body, Call
from rhocache_schemas.api import (
    CachedPairList,
    CacheList,
    Event,
    Job,
    JobList,
    ModelList,
    PairErrorList,
    ShardList,
    Validation,
)
from rhocache_schemas.job import JobSpec
from rhocache_schemas.records import Manifest

DEFAULT_URL = "http://127.0.0.1:8321"


class Client:
    """Talks to one service: ``client.jobs``, ``client.caches`` and ``client.models``.

    A context manager; close it otherwise. Requests are sent again, a bounded number of times, where
    the service can't be reached or asks for patience.

    Raises InvalidInput for what is no URL, no API key, or no proxy of the environment.

    Every method raises ServiceError: for a problem that the service answers with (its RFC 9457
    body is the error's ``problem``), and when the service can't be reached.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, api_key: str | None = None, timeout: float = 30.0
    ) -> None:
        """``api_key`` None takes it from the environment variable RHOCACHE_API_KEY."""
        self.url = url.rstrip("/")
        self._http = calls.connection(httpx.Client, httpx.HTTPTransport, self.url, api_key, timeout)
        self.jobs = Jobs(self)
        self.caches = Caches(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def models(self) -> ModelList:
        """List the architectures that a reference may name, with their pretrained weights."""
        return self.send(calls.list_models())

    @property
    def host(self) -> str:
        return self._http.base_url.host

    @property
    def http(self) -> httpx.Client:
        return self._http

    def send(self, call: Call[Body]) -> Body:
        return call.read(self.answer(call))

    def answer(self, call: Call[Any]) -> httpx.Response:
        """Send a request until its answer is final."""
        attempt = 0
        while True:
            try:
                response = self._http.send(call.request(self._http))
            except httpx.TransportError as error:
                if (seconds := calls.seconds_to_wait(attempt, None)) is None:
                    raise calls.no_service(self.url, error) from error
            else:
                if (seconds := calls.seconds_to_wait(attempt, response)) is None:
                    return response
            attempt += 1
            time.sleep(seconds)


class Jobs:
    def __init__(self, client: Client) -> None:
        self._client = client

    def submit(self, spec: JobSpec | None = None, /, **fields: Any) -> Job:
        """Submit a job, given as a JobSpec or as its fields, ``priority`` and ``expires_after``.

        Relative paths are this process's when the service is on this machine.

        Raises InvalidInput for fields that make no job.
        """
        made = calls.submission(spec, fields, self._client.host)
        return self._client.send(calls.submit(made))

    def validate(self, spec: JobSpec | None = None, /, **fields: Any) -> Validation:
        """Tell what a job would do, without running it. Raises InvalidInput."""
        made = calls.submission(spec, fields, self._client.host)
        return self._client.send(calls.validate(made))

    def get(self, job: str) -> Job:
        return self._client.send(calls.get(job))

    def list(
        self, *, limit: int = 20, after: str | None = None, status: str | None = None
    ) -> JobList:
        """List jobs, newest first; ``after`` is the last id of the page before."""
        return self._client.send(calls.list_jobs(limit, after, status))

    def cancel(self, job: str) -> Job:
        """Stop a job. What it has committed stays."""
        return self._client.send(calls.cancel(job))

    def retry(self, job: str) -> Job:
        """Add a job for what a job at an end has left undone."""
        return self._client.send(calls.retry(job))

    def delete(self, job: str) -> None:
        """Let the service forget a job that has ended. Its cache stays."""
        response = self._client.answer(calls.delete(job))
        if not response.is_success:
            raise calls.service_error(response)

    def shards(self, job: str, *, limit: int = 1000, after: str | None = None) -> ShardList:
        return self._client.send(calls.shards(job, limit, after))

    def errors(
        self, job: str, *, limit: int = 100, after: int = 0, code: str | None = None
    ) -> PairErrorList:
        """List the pairs and shards that failed."""
        return self._client.send(calls.errors(job, limit, after, code))

    def manifest(self, job: str) -> Manifest:
        """Give the manifest of a completed job's cache."""
        return self._client.send(calls.job_manifest(job))

    def watch(self, job: str) -> Iterator[Job]:
        """Give the job, and again whenever it has changed, until it has come to an end."""
        seen: str | None = None
        while True:
            call = calls.get(job, seen)
            response = self._client.answer(call)
            if response.status_code == httpx.codes.NOT_MODIFIED:
                continue
            found = call.read(response)
            yield found
            if found.status.terminal:
                return
            seen = response.headers.get("ETag")

    def events(self, job: str, *, after: int = 0) -> Iterator[Event]:
        """Give what happens to a job, from its first event on, until its end.

        A connection that breaks is made again, and nothing is given twice.
        """
        attempt = 0
        while True:
            call = calls.events(job, after)
            try:
                with connect_sse(
                    self._client.http, call.method, call.path, headers=call.headers
                ) as source:
                    if not source.response.is_success:
                        source.response.read()
                        raise calls.service_error(source.response)
                    for event in source.iter_sse():
                        attempt, after = 0, int(event.id)
                        yield Event(id=after, event=event.event, data=event.json())
                    return
            except httpx.TransportError as error:
                if (seconds := calls.seconds_to_wait(attempt, None)) is None:
                    raise calls.no_service(self._client.url, error) from error
            attempt += 1
            time.sleep(seconds)


class Caches:
    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, *, limit: int = 100, after: str | None = None) -> CacheList:
        """List the caches that jobs have committed, the last committed first."""
        return self._client.send(calls.list_caches(limit, after))

    def manifest(self, cache: str) -> Manifest:
        """Give the manifest of a cache, named by its id or fingerprint."""
        return self._client.send(calls.cache_manifest(cache))

    def pairs(
        self,
        cache: str,
        *,
        key: str | None = None,
        order: str = "lowest",
        after: int = 0,
        limit: int = 20,
    ) -> CachedPairList:
        """List pairs from the lowest or highest similarity on, or those of a key."""
        return self._client.send(calls.pairs(cache, key, order, after, limit))

    def picture(self, cache: str, shard: str, row: int) -> bytes:
        """Give a pair's picture as the dataset has it."""
        response = self._client.answer(calls.picture(cache, shard, row))
        if not response.is_success:
            raise calls.service_error(response)
        return response.content

    def download(self, cache: str, name: str) -> Iterator[bytes]:
        """Give a file of a cache in parts: manifest.json, index.parquet, shards/NAME.parquet."""
        client = self._client
        try:
            with client.http.stream("GET", calls.file(cache, name)) as response:
                if not response.is_success:
                    response.read()
                    raise calls.service_error(response)
                yield from response.iter_bytes()
        except httpx.TransportError as error:
            raise calls.no_service(client.url, error) from error
