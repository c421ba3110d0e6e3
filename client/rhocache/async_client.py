"""The client for the REST API, for asyncio."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import httpx
from httpx_sse import aconnect_sse

from rhocache import calls
from rhocache.calls import Body, Call
from rhocache.client import DEFAULT_URL
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


class AsyncClient:
    """``Client`` with methods to await, or to iterate over with ``async for``.

    An asynchronous context manager; close it otherwise. Requests are sent again, a bounded number
    of times, where the service can't be reached or asks for patience.

    Raises InvalidInput for what is no URL, no API key, or no proxy of the environment.

    Every method raises ServiceError: for a problem that the service answers with (its RFC 9457
    body is the error's ``problem``), and when the service can't be reached.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, api_key: str | None = None, timeout: float = 30.0
    ) -> None:
        """``api_key`` None takes it from the environment variable RHOCACHE_API_KEY."""
        self.url = url.rstrip("/")
        self._http = calls.connection(
            httpx.AsyncClient, httpx.AsyncHTTPTransport, self.url, api_key, timeout
        )
        self.jobs = AsyncJobs(self)
        self.caches = AsyncCaches(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def models(self) -> ModelList:
        """List the architectures that a reference may name, with their pretrained weights."""
        return await self.send(calls.list_models())

    @property
    def host(self) -> str:
        return self._http.base_url.host

    @property
    def http(self) -> httpx.AsyncClient:
        return self._http

    async def send(self, call: Call[Body]) -> Body:
        return call.read(await self.answer(call))

    async def answer(self, call: Call[Any]) -> httpx.Response:
        """Send a request until its answer is final."""
        attempt = 0
        while True:
            try:
                response = await self._http.send(call.request(self._http))
            except httpx.TransportError as error:
                if (seconds := calls.seconds_to_wait(attempt, None)) is None:
                    raise calls.no_service(self.url, error) from error
            else:
                if (seconds := calls.seconds_to_wait(attempt, response)) is None:
                    return response
            attempt += 1
            await asyncio.sleep(seconds)


class AsyncJobs:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def submit(self, spec: JobSpec | None = None, /, **fields: Any) -> Job:
        """Submit a job, given as a JobSpec or as its fields, ``priority`` and ``expires_after``.

        Relative paths are this process's when the service is on this machine.

        Raises InvalidInput for fields that make no job.
        """
        made = calls.submission(spec, fields, self._client.host)
        return await self._client.send(calls.submit(made))

    async def validate(self, spec: JobSpec | None = None, /, **fields: Any) -> Validation:
        """Tell what a job would do, without running it. Raises InvalidInput."""
        made = calls.submission(spec, fields, self._client.host)
        return await self._client.send(calls.validate(made))

    async def get(self, job: str) -> Job:
        return await self._client.send(calls.get(job))

    async def list(
        self, *, limit: int = 20, after: str | None = None, status: str | None = None
    ) -> JobList:
        """List jobs, newest first; ``after`` is the last id of the page before."""
        return await self._client.send(calls.list_jobs(limit, after, status))

    async def cancel(self, job: str) -> Job:
        """Stop a job. What it has committed stays."""
        return await self._client.send(calls.cancel(job))

    async def retry(self, job: str) -> Job:
        """Add a job for what a job at an end has left undone."""
        return await self._client.send(calls.retry(job))

    async def delete(self, job: str) -> None:
        """Let the service forget a job that has ended. Its cache stays."""
        response = await self._client.answer(calls.delete(job))
        if not response.is_success:
            raise calls.service_error(response)

    async def shards(self, job: str, *, limit: int = 1000, after: str | None = None) -> ShardList:
        return await self._client.send(calls.shards(job, limit, after))

    async def errors(
        self, job: str, *, limit: int = 100, after: int = 0, code: str | None = None
    ) -> PairErrorList:
        """List the pairs and shards that failed."""
        return await self._client.send(calls.errors(job, limit, after, code))

    async def manifest(self, job: str) -> Manifest:
        """Give the manifest of a completed job's cache."""
        return await self._client.send(calls.job_manifest(job))

    async def watch(self, job: str) -> AsyncIterator[Job]:
        """Give the job, and again whenever it has changed, until it has come to an end."""
        seen: str | None = None
        while True:
            call = calls.get(job, seen)
            response = await self._client.answer(call)
            if response.status_code == httpx.codes.NOT_MODIFIED:
                continue
            found = call.read(response)
            yield found
            if found.status.terminal:
                return
            seen = response.headers.get("ETag")

    async def events(self, job: str, *, after: int = 0) -> AsyncIterator[Event]:
        """Give what happens to a job, from its first event on, until its end.

        A connection that breaks is made again, and nothing is given twice.
        """
        attempt = 0
        while True:
            call = calls.events(job, after)
            try:
                async with aconnect_sse(
                    self._client.http, call.method, call.path, headers=call.headers
                ) as source:
                    if not source.response.is_success:
                        await source.response.aread()
                        raise calls.service_error(source.response)
                    async for event in source.aiter_sse():
                        attempt, after = 0, int(event.id)
                        yield Event(id=after, event=event.event, data=event.json())
                    return
            except httpx.TransportError as error:
                if (seconds := calls.seconds_to_wait(attempt, None)) is None:
                    raise calls.no_service(self._client.url, error) from error
            attempt += 1
            await asyncio.sleep(seconds)


class AsyncCaches:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self, *, limit: int = 100, after: str | None = None) -> CacheList:
        """List the caches that jobs have committed, the last committed first."""
        return await self._client.send(calls.list_caches(limit, after))

    async def manifest(self, cache: str) -> Manifest:
        """Give the manifest of a cache, named by its id or fingerprint."""
        return await self._client.send(calls.cache_manifest(cache))

    async def pairs(
        self,
        cache: str,
        *,
        key: str | None = None,
        order: str = "lowest",
        after: int = 0,
        limit: int = 20,
    ) -> CachedPairList:
        """List pairs from the lowest or highest similarity on, or those of a key."""
        return await self._client.send(calls.pairs(cache, key, order, after, limit))

    async def picture(self, cache: str, shard: str, row: int) -> bytes:
        """Give a pair's picture as the dataset has it."""
        response = await self._client.answer(calls.picture(cache, shard, row))
        if not response.is_success:
            raise calls.service_error(response)
        return response.content

    async def download(self, cache: str, name: str) -> AsyncIterator[bytes]:
        """Give a file of a cache in parts: manifest.json, index.parquet, shards/NAME.parquet."""
        client = self._client
        try:
            async with client.http.stream("GET", calls.file(cache, name)) as response:
                if not response.is_success:
                    await response.aread()
                    raise calls.service_error(response)
                async for part in response.aiter_bytes():
                    yield part
        except httpx.TransportError as error:
            raise calls.no_service(client.url, error) from error
