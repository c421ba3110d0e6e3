import asyncio
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rhocache import AsyncClient, Client, calls
from rhocache_schemas.errors import InvalidInput, ServiceError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.app import create_app
from rhocache_service.registry.jobs import Registry

from ..service.conftest import served, settings_without_ray
from ..service.made import completed, make_cache, picture


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture
def fields(root: Path) -> dict[str, Any]:
    return {
        "dataset": f"{root}/data",
        "output": f"{root}/cache",
        "reference": {"model": f"local-dir:{root}/model"},
    }


def test_a_job_is_submitted_found_and_cancelled(client: Client, fields: dict[str, Any]) -> None:
    job = client.jobs.submit(**fields)
    assert job.spec == ScoreSpec.model_validate(fields)
    assert client.jobs.submit(job.spec).spec == job.spec
    assert client.jobs.get(job.id) == job
    assert client.jobs.errors(job.id).data == []
    assert client.jobs.cancel(job.id).status == JobState.CANCELLING


def test_pages(client: Client, fields: dict[str, Any]) -> None:
    ids = [client.jobs.submit(**fields).id for _ in range(3)]
    page = client.jobs.list(limit=2)
    assert [job.id for job in page.data] == [ids[2], ids[1]]
    assert client.jobs.list(limit=1, after=page.last_id, status="validating").data[0].id == ids[0]


def test_lists_are_walked_to_their_ends(
    client: Client, registry: Registry, root: Path, fields: dict[str, Any]
) -> None:
    """Over pages of one item: every list has a last_id that leads to its next page."""
    made = [client.jobs.submit(**fields, metadata={"walk": "a=b"}).id for _ in range(3)]
    listed = client.walk(calls.list_jobs(1, None, None, {"walk": "a=b"}))
    assert [job.id for job in listed] == made[::-1]
    assert [job.id for job in client.jobs.iterate(metadata={"walk": "a=b"})] == made[::-1]
    assert list(client.jobs.iterate(metadata={"walk": "a"})) == []

    captions = dict.fromkeys("abcd", "a caption")
    rows = [
        completed(registry, make_cache(root / f"walk-{name}", captions, missing="b"))
        for name in ("first", "second")
    ]
    cache = client.caches.list(limit=1).data[0].id
    job = rows[0].id
    for one, all_ in (
        (calls.list_caches(1, None), client.caches.iterate()),
        (
            calls.pairs(cache, None, "highest", 0, 1),
            client.caches.iterate_pairs(cache, order="highest"),
        ),
        (calls.pairs(cache, "b", "lowest", 0, 1), client.caches.iterate_pairs(cache, key="b")),
        (calls.errors(job, 1, 0, None), client.jobs.iterate_errors(job)),
        (calls.shards(job, 1, None), client.jobs.iterate_shards(job)),
    ):
        walked = list(all_)
        assert walked
        assert list(client.walk(one)) == walked
    assert client.models().first_id == client.models().data[0].id
    page = client.caches.pairs(cache, after=1, limit=1)
    assert (page.first_id, page.last_id, page.has_more) == ("2", "2", True)


def test_relative_paths_are_the_callers(
    client: Client, root: Path, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    job = client.jobs.submit(
        **fields | {"dataset": "data", "reference": {"model": "local-dir:model"}}
    )
    assert job.spec == ScoreSpec.model_validate(fields)


def test_watching_ends_with_the_job(
    client: Client, registry: Registry, fields: dict[str, Any]
) -> None:
    row = registry.get(client.jobs.submit(**fields).id)
    assert row is not None

    def move() -> None:
        moved = row
        for state in (JobState.QUEUED, JobState.IN_PROGRESS, JobState.FAILED):
            time.sleep(0.1)
            moved = registry.advance(moved, state)

    thread = threading.Thread(target=move)
    thread.start()
    seen = [job.status for job in client.jobs.watch(row.id)]
    thread.join()
    assert seen[0] == JobState.VALIDATING
    assert seen[-1] == JobState.FAILED
    assert seen.count(JobState.FAILED) == 1


def test_a_problem_is_an_error_that_keeps_it(client: Client, fields: dict[str, Any]) -> None:
    with pytest.raises(ServiceError, match="'/etc' is not under an allowed root") as caught:
        client.jobs.submit(**fields | {"dataset": "/etc"})
    assert caught.value.problem is not None
    assert caught.value.problem.status == 403
    assert caught.value.problem.type.endswith("/uri-not-allowed")


@pytest.mark.parametrize("job", ["job_0", "../../livez", "a b?c#d", "%2e%2e", "é\0"])
def test_an_id_is_never_a_path(client: Client, job: str) -> None:
    with pytest.raises(ServiceError) as caught:
        client.jobs.get(job)
    assert caught.value.problem is not None
    assert caught.value.problem.status == 404


def test_fields_that_make_no_job(client: Client, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="entrypoint: unknown field"):
        client.jobs.submit(**fields, entrypoint="rm")


def test_no_service() -> None:
    with (
        Client("http://127.0.0.1:9") as client,
        pytest.raises(ServiceError, match=r"http://127.0.0.1:9 .* start one with rhocache serve"),
    ):
        client.jobs.list()


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InvalidInput, match="is not a URL"):
        Client(url)


@pytest.mark.parametrize("status", [200, 404])
def test_something_else_answers(status: int) -> None:
    class Stranger(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, format: str, *arguments: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with (
            Client(f"http://127.0.0.1:{server.server_port}") as client,
            pytest.raises(ServiceError, match=f"answered {status}, and not as rhocache does"),
        ):
            client.jobs.list()
        server.shutdown()
        thread.join()


def test_what_happens_is_told_once_and_from_anywhere(
    client: Client, registry: Registry, fields: dict[str, Any]
) -> None:
    row = registry.get(client.jobs.submit(**fields, priority=1).id)
    assert row is not None
    row = registry.advance(row, JobState.QUEUED)
    registry.note(row, [("shard.committed", {"shard": "é.tar", "rows": 3})])
    registry.advance(row, JobState.FAILED)
    found = list(client.jobs.events(row.id))
    assert [(event.id, event.event) for event in found] == [
        (1, "job.status"), (2, "job.status"), (3, "shard.committed"), (4, "job.status"),
    ]  # fmt: skip
    assert found[2].data.name == "é.tar"
    assert [event.id for event in client.jobs.events(row.id, after=3)] == [4]


def test_patience_with_a_service_that_asks_for_it() -> None:
    """Busy, then unavailable, then there: the same request, with the same Idempotency-Key."""
    statuses, keys = [429, 503, 404], []

    class Busy(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            keys.append(self.headers["Idempotency-Key"])
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.send_response(statuses[len(keys) - 1])
            self.send_header("Retry-After", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with (
            Client(f"http://127.0.0.1:{server.server_port}") as client,
            pytest.raises(ServiceError, match="answered 404"),
        ):
            client.jobs.retry("job_1")
        server.shutdown()
        thread.join()
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_an_api_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHOCACHE_API_KEY", "rhk_environment")
    for given, sent in ((None, "rhk_environment"), ("rhk_given", "rhk_given")):
        with Client(api_key=given) as client:
            assert client.http.headers["authorization"] == f"Bearer {sent}"
    monkeypatch.delenv("RHOCACHE_API_KEY")
    with Client() as client:
        assert "authorization" not in client.http.headers


def test_caches_and_their_pictures(client: Client, registry: Registry, root: Path) -> None:
    spec = make_cache(root / "made", {"one": "a caption", "two": "another"})
    row = completed(registry, spec)
    assert len(client.caches.list(limit=1).data) == 1
    (cache,) = [each for each in client.caches.iterate() if each.uri == spec.output]
    assert cache.job == row.id
    assert cache not in client.caches.list(after=cache.id).data
    manifest = client.caches.manifest(cache.id)
    assert b"".join(client.caches.download(cache.id, "manifest.json")) == manifest.to_json()
    (pair,) = client.caches.pairs(cache.id, key="two").data
    assert client.caches.picture(cache.id, pair.shard, pair.row) == picture(1)
    with pytest.raises(ServiceError, match="no picture at row 9"):
        client.caches.picture(cache.id, pair.shard, 9)


def test_a_missing_key_is_told_with_what_to_do(tmp_path: Path) -> None:
    app = create_app(settings_without_ray(tmp_path))
    app.state.keys.create("someone", ["admin"])
    hint = "no API key was sent; give --api-key or set RHOCACHE_API_KEY"
    with served(app) as url, Client(url, api_key="") as client, pytest.raises(ServiceError) as told:
        client.jobs.list()
    assert str(told.value).endswith(hint)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_lies_between_this_machine_and_itself(
    url: str, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    near = url.replace("127.0.0.1", host)
    with Client(near) as client:
        assert client.jobs.list(limit=1).object == "list"

    async def ask() -> str:
        async with AsyncClient(near) as client:
            return (await client.jobs.list(limit=1)).object

    assert asyncio.run(ask()) == "list"


def test_a_proxy_that_can_not_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "gopher://user:hush@proxy")
    with pytest.raises(InvalidInput, match="proxy") as error:
        Client("http://far.example")
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("key", ["rhk_hush\nhush", "rhk_hüsh", "rhk_hush\0"])
def test_a_key_that_is_none_is_not_shown(key: str) -> None:
    with pytest.raises(InvalidInput, match="API key") as error:
        Client(api_key=key)
    assert "hush" not in str(error.value)


def test_the_password_of_a_url_is_not_shown() -> None:
    with Client("http://user:hush@127.0.0.1:9") as client, pytest.raises(ServiceError) as error:
        client.jobs.list()
    assert "hush" not in str(error.value)
