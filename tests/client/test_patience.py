"""Watching through what lies between a client and its service, which comes and goes."""

import asyncio
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.responses import Response, StreamingResponse

from rhocache import AsyncClient, Client, calls
from rhocache.patience import POLL_SECONDS, STRANGER_SECONDS, Patience
from rhocache_schemas.errors import InvalidInput, JobStateConflict, ServiceError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import JobRow, open_database
from rhocache_service.settings import Settings

from ..service.conftest import Service
from ..service.made import completed, make_cache
from ..service.reverse_proxy import Proxy

Follow = Callable[..., list[str]]


def watch(url: str, job: str, first: threading.Event, **options: Any) -> list[str]:
    """The states that a watch gives; ``first`` is set with the first of them."""
    seen: list[str] = []
    with Client(url, **options) as client:
        for found in client.jobs.watch(job):
            seen.append(found.status)
            first.set()
    return seen


def watch_async(url: str, job: str, first: threading.Event, **options: Any) -> list[str]:
    async def run() -> list[str]:
        seen: list[str] = []
        async with AsyncClient(url, **options) as client:
            async for found in client.jobs.watch(job):
                seen.append(found.status)
                first.set()
        return seen

    return asyncio.run(run())


def events(url: str, job: str, first: threading.Event, **options: Any) -> list[str]:
    seen: list[str] = []
    with Client(url, **options) as client:
        for event in client.jobs.events(job):
            seen.append(event.data.status)
            first.set()
    return seen


def events_async(url: str, job: str, first: threading.Event, **options: Any) -> list[str]:
    async def run() -> list[str]:
        seen: list[str] = []
        async with AsyncClient(url, **options) as client:
            async for event in client.jobs.events(job):
                seen.append(event.data.status)
                first.set()
        return seen

    return asyncio.run(run())


class Following(threading.Thread):
    """One of those, in a thread, once it has given something."""

    def __init__(self, follow: Follow, url: str, job: str, **options: Any) -> None:
        super().__init__()
        self._arguments, self._options, self._follow = (url, job), options, follow
        self._first, self._seen, self._error = threading.Event(), [], None
        self.start()
        self._first.wait()

    def run(self) -> None:
        try:
            self._seen = self._follow(*self._arguments, self._first, **self._options)
        except BaseException as error:
            self._error = error
        finally:
            self._first.set()

    def states(self) -> list[str]:
        self.join()
        if self._error:
            raise self._error
        return self._seen


@pytest.fixture
def row(registry: Registry, root: Path) -> JobRow:
    reference = {"model": f"local-dir:{root}/model"}
    return registry.add(
        ScoreSpec.model_validate(
            {"dataset": f"{root}/data", "output": f"{root}/cache", "reference": reference}
        )
    )


def end(registry: Registry, row: JobRow) -> None:
    stopping = registry.advance(row, JobState.CANCELLING)
    with suppress(JobStateConflict):  # the service does it by itself, if it is faster
        registry.advance(stopping, JobState.CANCELLED)


def weaken(headers: MutableHeaders) -> None:
    if "etag" in headers:
        headers["etag"] = f"W/{headers['etag']}"


def mangle(headers: MutableHeaders) -> None:  # as Apache's mod_deflate does
    if "etag" in headers:
        headers["etag"] = headers["etag"][:-1] + '-gzip"'


def drop(headers: MutableHeaders) -> None:
    del headers["etag"]


@pytest.mark.parametrize("change", [weaken, mangle, drop])
def test_no_busy_loop_whatever_becomes_of_the_etag(
    url: str, registry: Registry, row: JobRow, change: Callable[[MutableHeaders], None]
) -> None:
    one, other = Proxy(url, change=change), Proxy(url, change=change)
    with one.running() as through, other.running() as also_through:
        began = time.monotonic()
        following = [Following(watch, through, row.id)]
        following.append(Following(watch_async, also_through, row.id))
        time.sleep(1.5 * POLL_SECONDS)  # in which a busy loop would send hundreds
        end(registry, row)
        for states in (each.states() for each in following):
            assert (states[0], states[-1]) == ("validating", "cancelled")
            assert len(states) == len(set(states)), "nothing is given twice"
        passed = time.monotonic() - began
    for proxy in (one, other):
        assert len(proxy.asked) <= passed / POLL_SECONDS + 5


def test_no_busy_loop_where_nothing_waits(url: str, registry: Registry, row: JobRow) -> None:
    """Of something before the service that answers from what it has seen, at once."""
    kept = httpx.get(f"{url}/v1/jobs/{row.id}").content
    over = threading.Event()

    def stale(_: Request) -> Response | None:
        return None if over.is_set() else Response(kept, media_type="application/json")

    one, other = Proxy(url, refuse=stale), Proxy(url, refuse=stale)
    with one.running() as through, other.running() as also_through:
        began = time.monotonic()
        following = [Following(watch, through, row.id)]
        following.append(Following(watch_async, also_through, row.id))
        time.sleep(1.5 * POLL_SECONDS)
        end(registry, row)
        over.set()
        assert [each.states() for each in following] == [["validating", "cancelled"]] * 2
        passed = time.monotonic() - began
    for proxy in (one, other):
        assert len(proxy.asked) <= passed / POLL_SECONDS + 3


def bad_gateway(_: Request) -> Response:
    return Response("<html>", 502)


def come_back(_: Request) -> Response:
    """In a second, by the server's clock."""
    told = {"Date": "Wed, 21 Oct 2015 07:28:00 GMT", "Retry-After": "Wed, 21 Oct 2015 07:28:01 GMT"}
    return Response("<html>", 503, told)


def torn(_: Request) -> Response:
    async def body() -> Any:
        yield b'{"id":'
        raise ConnectionError

    return StreamingResponse(body(), headers={"content-length": "1000"})


def first_event(_: Request) -> Response:
    """Of a stream that ends before the job does, as those of a service that ends."""
    event = b'id: 1\nevent: job.status\ndata: {"at": 1.0, "status": "validating"}\n\n'
    return Response(event, media_type="text/event-stream")


@pytest.mark.parametrize(
    ("follow", "first"),
    [(watch, None), (watch_async, None), (events, first_event), (events_async, first_event)],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_passes_ends_no_watch(
    url: str, registry: Registry, row: JobRow, follow: Follow, first: Any
) -> None:
    answers = [first, bad_gateway, come_back, torn]

    def refuse(request: Request) -> Response | None:
        answer = answers.pop(0) if answers else None
        return answer and answer(request)

    with Proxy(url, refuse=refuse).running() as through:
        following = Following(follow, through, row.id)
        end(registry, row)
        assert following.states()[-1] == "cancelled"
    assert not answers


def test_a_restart_ends_no_watch(tmp_path: Path) -> None:
    """Of a real service, which ends its streams in good order as it goes."""
    service = Service(
        tmp_path / "data", "--ray-address=http://127.0.0.1:9", f"--allow-root={tmp_path}"
    )
    spec = {"dataset": f"{tmp_path}/data", "output": f"{tmp_path}/cache"}
    spec |= {"reference": {"model": f"local-dir:{tmp_path}"}}
    try:
        service.start("/livez")
        engine = open_database(Settings(data_dir=tmp_path / "data").registry_url)
        registry = Registry(engine)
        row = registry.add(ScoreSpec.model_validate(spec))
        follows = (watch, watch_async, events, events_async)
        following = [Following(follow, service.url, row.id) for follow in follows]
        service.stop()
        time.sleep(3)  # in which nothing listens
        end(registry, row)
        service.start("/livez")
        seen = [each.states() for each in following]
    finally:
        service.kill()
        engine.dispose()
    assert seen[:2] == [["validating", "cancelled"]] * 2
    assert seen[2:] == [["validating", "cancelling", "cancelled"]] * 2


def test_patience_has_an_end(url: str, registry: Registry, row: JobRow) -> None:
    answers = [None, *[bad_gateway] * 100]
    with Proxy(
        url, refuse=lambda request: (each := answers.pop(0)) and each(request)
    ).running() as through:
        following = Following(watch, through, row.id, patience=1.0)
        with pytest.raises(ServiceError, match="answered 502, and not as rhocache does"):
            following.states()
    assert len(answers) > 90


Ask = Callable[[str], httpx.Response]


def ask(url: str) -> httpx.Response:
    """The final answer to a request; retry's, as it carries an Idempotency-Key."""
    with Client(url) as client:
        return client.answer(calls.retry("job_1"))


def ask_async(url: str) -> httpx.Response:
    async def run() -> httpx.Response:
        async with AsyncClient(url) as client:
            return await client.answer(calls.retry("job_1"))

    return asyncio.run(run())


both = pytest.mark.parametrize("ask", [ask, ask_async])
Scripted = tuple[int, dict[str, str], bytes]  # status, headers, body


@contextmanager
def answering(*script: Scripted) -> Iterator[tuple[str, list[tuple[float, str]]]]:
    """A server that gives these answers, one after another; and when it was asked with what key."""
    asked: list[tuple[float, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            status, headers, body = script[len(asked)]
            asked.append((time.monotonic(), self.headers["Idempotency-Key"]))
            self.send_response_only(status)  # without a Date
            for header in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(*header)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


OVER: Scripted = (404, {}, b"")


@both
@pytest.mark.parametrize(
    "told",
    [
        {"Retry-After": "1"},
        {
            "Retry-After": "Wed, 21 Oct 2015 07:28:01 GMT",
            "Date": "Wed, 21 Oct 2015 07:28:00 GMT",  # its clock is years late
        },
    ],
    ids=["seconds", "date"],
)
def test_a_server_says_when_to_come_again(ask: Ask, told: dict[str, str]) -> None:
    with answering((503, told, b""), (429, told, b""), OVER) as (url, asked):
        assert ask(url).status_code == 404
    (first, key), (second, _), (third, _) = asked
    assert second - first >= 1
    assert third - second >= 1
    assert {each for _, each in asked} == {key}
    assert key


@both
def test_a_server_says_when_to_come_again_but_not_what_time_it_is(ask: Ask) -> None:
    until = int(time.time()) + 2
    told = {"Retry-After": formatdate(until, usegmt=True)}
    with answering((503, told, b""), OVER) as (url, _):
        assert ask(url).status_code == 404
        assert time.time() >= until


@both
@pytest.mark.parametrize(
    "passing",
    [
        (429, {}, b""),
        (502, {}, b""),
        (503, {}, b""),
        (504, {}, b""),
        (409, {"Retry-After": "0"}, b'{"type": "/problems/idempotency-in-flight"}'),
    ],
    ids=lambda each: each[0],
)
def test_what_passes(ask: Ask, passing: Scripted) -> None:
    with answering(passing, passing, OVER) as (url, asked):
        assert ask(url).status_code == 404
    assert len(asked) == 3


@both
@pytest.mark.parametrize("status", [200, 304, 400, 401, 403, 404, 409, 410, 422, 500, 501])
def test_what_is_final(ask: Ask, status: int) -> None:
    with answering((status, {}, b""), OVER) as (url, asked):
        assert ask(url).status_code == status
    assert len(asked) == 1


@both
def test_a_service_that_never_answered_is_not_waited_for(ask: Ask) -> None:
    """But one that says when to come again is, also for longer than a stranger."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(ServiceError, match="no service answers"):
            ask(f"http://127.0.0.1:{nobody.getsockname()[1]}")
    busy: Scripted = (503, {"Retry-After": "1"}, b"")
    with answering(busy, busy, busy, OVER) as (url, asked):
        assert ask(url).status_code == 404
    assert asked[-1][0] - asked[0][0] > STRANGER_SECONDS


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({}, 0.1, 1),
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": " 7 "}, 7, 7),
        ({"Retry-After": "0"}, 0.1, 1),
        ({"Retry-After": "-7"}, 0.1, 1),
        ({"Retry-After": "soon"}, 0.1, 1),
        ({"Retry-After": "inf"}, 0.1, 1),
        ({"Retry-After": "9" * 500}, 30, 30),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:07 GMT"}, 7, 7),
        ({"Retry-After": "Wednesday, 21-Oct-15 07:28:07 GMT"}, 7, 7),
        ({"Retry-After": "Wed Oct 21 07:28:07 2015"}, 7, 7),
        ({"Retry-After": "Wed, 21 Oct 2015 07:27:00 GMT"}, 0.1, 1),  # past
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 30, 30),
        ({"Retry-After": "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"}, 0.1, 1),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:07 GMT", "Date": "?"}, 0.1, 1),  # by our clock
    ],
)
def test_how_long_a_pause_is(
    headers: dict[str, str], least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of up to 30 seconds, which are not slept."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    patience = Patience(httpx.Request("GET", "http://host"), 120.0, known=True).increment()
    told = {"Date": "Wed, 21 Oct 2015 07:28:00 GMT"} | headers
    patience.sleep(httpx.Response(503, headers=told))
    (pause,) = slept
    assert least <= pause <= most


def test_no_patience_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    request = httpx.Request("GET", "http://host")
    assert Patience(request, 0.0, known=True).is_exhausted()
    patience = Patience(request, 1.0, known=True)
    assert not patience.is_exhausted()
    patience.increment()
    passed = time.monotonic() + 1
    monkeypatch.setattr(time, "monotonic", lambda: passed)
    assert patience.is_exhausted(), "time that requests take counts too"


@pytest.mark.parametrize("follow", [watch, watch_async])
def test_a_proxy_with_no_time_for_long_polls(
    url: str, registry: Registry, row: JobRow, follow: Follow
) -> None:
    """It gives up each request that waits; the same is asked for again, without the wait."""
    given_up = threading.Event()

    def hurry(request: Request) -> Response | None:
        if "wait" in request.query_params:
            given_up.set()
            return Response("<html>", 504)
        return None

    with Proxy(url, refuse=hurry).running() as through:
        following = Following(follow, through, row.id, patience=30.0)
        assert given_up.wait(60)
        end(registry, row)
        assert following.states()[-1] == "cancelled"


def test_a_client_that_is_not_patient_enough_for_long_polls(
    url: str, registry: Registry, row: JobRow
) -> None:
    following = Following(watch, url, row.id, timeout=1.0)
    time.sleep(2)
    end(registry, row)
    assert following.states()[-1] == "cancelled"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_blanks_around_a_url_and_a_key(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHOCACHE_API_KEY", " rhk_key\n")
    assert kind(" http://host/rho/ \n").url == "http://host/rho"
    assert kind("").url == "http://127.0.0.1:8321"
    assert kind().http.headers["authorization"] == "Bearer rhk_key"
    monkeypatch.setenv("RHOCACHE_API_KEY", " ")
    assert "authorization" not in kind().http.headers
    for key in ("rhk\nX-Evil: 1", "schlüssel"):
        with pytest.raises(InvalidInput, match="the API key has characters") as told:
            kind(api_key=key)
        assert key not in str(told.value)
    for url in ("127.0.0.1:8321", "localhost:8321", "ftp://host", "http://", "/v1"):
        with pytest.raises(InvalidInput, match=r"is not a URL.*http://127\.0\.0\.1:8321"):
            kind(url)


def test_a_download_that_breaks_off_is_an_error(url: str, registry: Registry, root: Path) -> None:
    spec = make_cache(root / "torn", {"one": "a caption"})
    completed(registry, spec)
    with (
        Proxy(
            url, refuse=lambda r: torn(r) if "/files/" in r.url.path else None
        ).running() as through,
        Client(through) as client,
    ):
        (cache, *_) = client.caches.list().data
        with pytest.raises(ServiceError, match="broke off"):
            list(client.caches.download(cache.id, "manifest.json"))
