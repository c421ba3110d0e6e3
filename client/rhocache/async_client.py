"""A client for the REST API."""

from asyncio import sleep
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from time import monotonic
from typing import Any, Self

import httpx
from httpx_retries import RetryTransport
from httpx_sse import EventSource, SSEError

from rhocache import calls
from rhocache.calls import DEFAULT_URL, Body, Call
from rhocache.patience import POLL_SECONDS, SECONDS, Patience
from rhocache_schemas.api import (
    CachedPair,
    CachedPairList,
    CacheList,
    CacheSummary,
    Job,
    JobList,
    JobLog,
    ModelList,
    PairError,
    PairErrorList,
    ShardList,
    ShardStatus,
    Validation,
)
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.events import Event
from rhocache_schemas.job.spec import JobSpec


class AsyncClient:
    """Talks to one service: ``client.jobs``, ``client.caches`` and ``client.models``.

    A context manager; close it otherwise. Requests are sent again where the service can't be
    reached, restarts behind a proxy (502, 503, 504) or asks for patience (429, Retry-After): for
    ``patience`` seconds, or 2 where it has never answered yet, so that there may be none.

    Raises InvalidInput for what is no URL, no API key, or no proxy of the environment.

    Every method raises ServiceError: for a problem that the service answers with (its RFC 9457
    body is the error's ``problem``), and when the service can't be reached.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        patience: float = SECONDS,
    ) -> None:
        """``api_key`` None takes it from the environment variable RHOCACHE_API_KEY.

        ``timeout``: seconds for each part of an answer. ``patience``: seconds.
        """
        self.url = calls.checked_url(url)
        self.timeout = timeout
        self._http = calls.connection(
            httpx.AsyncClient, httpx.AsyncHTTPTransport, self.url, api_key, timeout
        )
        self._patience = patience
        self._known = False  # whether the service has answered yet
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

    async def done(self, call: Call[Any]) -> None:
        """Send what is answered without a body."""
        response = await self.answer(call)
        if not response.is_success:
            raise calls.service_error(response)

    async def walk(self, call: Call[Any]) -> AsyncIterator[Any]:
        """Yield the items of a list: of the page that is called for, and of all behind it."""
        while True:
            page = await self.send(call)
            for item in page.data:
                yield item
            if not page.has_more:
                return
            call = call.following(page.last_id)

    async def answer(self, call: Call[Any], *, stream: bool = False) -> httpx.Response:
        """Send a request until its answer is final.

        With ``stream`` the body of a success is left to be read, and the response to be closed.
        """
        request = call.request(self._http)
        patience = Patience(request, self._patience, known=self._known)
        transport = RetryTransport(_AsyncSending(self._http, stream=stream), patience)
        try:
            response = await transport.handle_async_request(request)
        except httpx.RequestError as error:
            raise calls.no_service(self.url, error) from error
        self._known = True
        return response


class _AsyncSending(httpx.AsyncBaseTransport):
    """Sends by a client, since one that is given a transport does not look for proxies any more."""

    def __init__(self, http: httpx.AsyncClient, *, stream: bool) -> None:
        self._http = http
        self._stream = stream

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._http.send(request, stream=self._stream)
        if not response.is_success:
            await response.aread()
        return response


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
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        status: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> JobList:
        """List a page of jobs, newest first; ``after`` is the last id of the page before.

        Only those in a state, and with this metadata among theirs, if these are given.
        """
        return await self._client.send(calls.list_jobs(limit, after, status, metadata))

    async def iterate(
        self, *, status: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[Job]:
        """Yield all jobs that ``list`` has on its pages."""
        async for job in self._client.walk(calls.list_jobs(100, None, status, metadata)):
            yield job

    async def cancel(self, job: str) -> Job:
        """Stop a job. What it has committed stays."""
        return await self._client.send(calls.cancel(job))

    async def retry(self, job: str) -> Job:
        """Add a job for what a job at an end has left undone."""
        return await self._client.send(calls.retry(job))

    async def delete(self, job: str, *, with_output: bool = False) -> None:
        """Let the service forget a job that has ended. Its cache stays, unless what it has written
        is to be deleted with it."""
        await self._client.done(calls.delete(job, with_output=with_output))

    async def shards(self, job: str, *, limit: int = 1000, after: str | None = None) -> ShardList:
        return await self._client.send(calls.shards(job, limit, after))

    async def iterate_shards(self, job: str) -> AsyncIterator[ShardStatus]:
        """Yield all shards of a job's dataset, by name."""
        async for shard in self._client.walk(calls.shards(job, 1000, None)):
            yield shard

    async def errors(
        self, job: str, *, limit: int = 100, after: int = 0, code: str | None = None
    ) -> PairErrorList:
        """List the pairs and shards that failed."""
        return await self._client.send(calls.errors(job, limit, after, code))

    async def iterate_errors(
        self, job: str, *, code: str | None = None
    ) -> AsyncIterator[PairError]:
        """Yield all pairs and shards that failed."""
        async for error in self._client.walk(calls.errors(job, 1000, 0, code)):
            yield error

    async def manifest(self, job: str) -> Manifest:
        """Return the manifest of a completed job's cache."""
        return await self._client.send(calls.job_manifest(job))

    async def log(self, job: str, *, limit: int = 200) -> JobLog:
        """Return the last lines that a job's driver has printed."""
        return await self._client.send(calls.log(job, limit))

    async def watch(self, job: str) -> AsyncIterator[Job]:
        """Yield the job, and again whenever it has changed, until it has come to an end.

        Asks at most once a second where nothing is new, whatever is made of the service's waiting
        and its ETags on the way.
        """
        call, known, seen = calls.get(job), None, None
        while True:
            asked = monotonic()
            response = await self._client.answer(call)
            if response.status_code != HTTPStatus.NOT_MODIFIED:
                found, seen = call.read(response), response.headers.get("ETag")
                if found != known:
                    yield found
                    if found.status.terminal:
                        return
                    known, asked = found, 0.0
            await sleep(max(0.0, asked + POLL_SECONDS - monotonic()))
            call = calls.get_newer(job, seen, self._client.timeout)

    async def events(self, job: str, *, after: int = 0) -> AsyncIterator[Event]:
        """Yield what happens to a job, from its first event on, until its end.

        A stream that breaks, or ends before the job does, is taken up again, and nothing is given
        twice.
        """
        ended = False
        while True:
            last: Event | None = None
            response = await self._client.answer(calls.events(job, after), stream=True)
            try:
                if not response.is_success:
                    raise calls.service_error(response)
                async for sent in EventSource(response).aiter_sse():
                    event, after = calls.read_event(sent), int(sent.id)
                    if event is not None:
                        last = event
                        yield event
                if ended if last is None else calls.is_end(last):
                    return
            except (SSEError, ValueError) as error:
                raise calls.stranger(response) from error
            except httpx.RequestError:
                pass  # a connection that broke
            finally:
                await response.aclose()
            found = await self.get(job)
            ended = found.status.terminal
            await sleep(POLL_SECONDS)


class AsyncCaches:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self, *, limit: int = 100, after: str | None = None) -> CacheList:
        """List the caches that jobs have committed, the last committed first."""
        return await self._client.send(calls.list_caches(limit, after))

    async def iterate(self) -> AsyncIterator[CacheSummary]:
        """Yield all caches that jobs have committed."""
        async for cache in self._client.walk(calls.list_caches(1000, None)):
            yield cache

    async def manifest(self, cache: str) -> Manifest:
        """Return the manifest of a cache, named by its id or fingerprint."""
        return await self._client.send(calls.cache_manifest(cache))

    async def keep(self, cache: str, until: int | None = None) -> CacheSummary:
        """Set the Unix second from which on a cache is deleted; None: it is kept for ever."""
        return await self._client.send(calls.keep_cache(cache, until))

    async def delete(self, cache: str) -> None:
        """Delete a cache, which no job is at work on. It is listed no more; then its files go."""
        await self._client.done(calls.delete_cache(cache))

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

    async def iterate_pairs(
        self, cache: str, *, key: str | None = None, order: str = "lowest"
    ) -> AsyncIterator[CachedPair]:
        """Yield all pairs that ``pairs`` has on its pages."""
        async for pair in self._client.walk(calls.pairs(cache, key, order, 0, 100)):
            yield pair

    async def picture(self, cache: str, shard: str, row: int) -> bytes:
        """Return a pair's picture as the dataset has it."""
        response = await self._client.answer(calls.picture(cache, shard, row))
        if not response.is_success:
            raise calls.service_error(response)
        return response.content

    async def download(self, cache: str, name: str) -> AsyncIterator[bytes]:
        """Yield a file of a cache in parts: manifest.json, index.parquet, shards/NAME.parquet."""
        response = await self._client.answer(calls.file(cache, name), stream=True)
        try:
            if not response.is_success:
                raise calls.service_error(response)
            async for part in response.aiter_bytes():
                yield part
        except httpx.RequestError as error:
            raise calls.broken_off(str(response.url), error) from error
        finally:
            await response.aclose()
