"""Deleting caches over REST and by their age, in services that may be killed meanwhile."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy.engine import Engine

from rhocache import Client
from rhocache_schemas.cache.lease import Lease
from rhocache_schemas.errors import CacheNotFound, ServiceError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.app import create_app
from rhocache_service.registry.caches import cache_id
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.leader_lease import Leadership
from rhocache_service.registry.tables import JobRow
from rhocache_service.scheduling.deletions import Deletions
from rhocache_service.scheduling.reconciler import Reconciler

from ..conftest import served, settings_without_ray, wait_until
from ..made import completed, make_cache


@pytest.fixture
def spec(tmp_path: Path) -> ScoreSpec:
    return make_cache(tmp_path, {"one": "1", "two": "2"})


@pytest.fixture
def registry(database: Engine) -> Registry:
    return Registry(database)


@pytest.fixture
def deletions(registry: Registry, tmp_path: Path) -> Deletions:
    return Deletions(registry, Leadership(registry.engine), [str(tmp_path)])


@pytest.fixture
def client(tmp_path: Path, spec: ScoreSpec) -> Iterator[Client]:
    """Of a service whose jobs stay where a test puts them; its caches do not."""
    app = create_app(settings_without_ray(tmp_path))
    completed(app.state.registry, spec)
    with served(app) as url, Client(url) as client:
        client.registry = app.state.registry  # pyright: ignore[reportAttributeAccessIssue]
        yield client


def unfinished(registry: Registry, spec: ScoreSpec) -> JobRow:
    return registry.advance(registry.add(spec), JobState.QUEUED, shards=1)


def test_a_deleted_cache_is_listed_no_more_and_its_files_go(
    client: Client, spec: ScoreSpec, tmp_path: Path
) -> None:
    (listed,) = client.caches.list().data
    client.caches.delete(listed.id)
    assert client.caches.list().data == []
    with pytest.raises(ServiceError, match="no such thing"):
        client.caches.manifest(listed.id)
    wait_until(lambda: not Path(spec.output).exists(), tmp_path / "none")
    assert Path(spec.dataset).exists()
    with pytest.raises(ServiceError, match="no such thing"):
        client.caches.delete(listed.id)


def test_a_cache_that_a_job_writes_is_not_deleted(client: Client, spec: ScoreSpec) -> None:
    registry: Registry = client.registry  # pyright: ignore
    elsewhere = spec.model_copy(update={"output": f"{spec.output}/../other"})
    unfinished(registry, elsewhere)
    row = unfinished(registry, spec.model_copy(update={"output": f"{spec.output}/../cache/"}))
    with pytest.raises(ServiceError, match=f"job {row.id} is queued") as caught:
        client.caches.delete(cache_id(spec.output))
    problem = caught.value.problem
    assert problem is not None
    assert (problem.status, problem.type.rpartition("/")[2]) == (409, "cache-busy")
    assert len(client.caches.list().data) == 1
    registry.advance(row, JobState.CANCELLING)
    with pytest.raises(ServiceError, match="is cancelling"):
        client.caches.delete(cache_id(spec.output))


def test_a_cache_is_kept_until_a_time_or_for_ever(client: Client, spec: ScoreSpec) -> None:
    cache, later = cache_id(spec.output), int(time.time()) + 10**6
    assert client.caches.list().data[0].expires_at is None
    assert client.caches.keep(cache, later).expires_at == later
    assert client.caches.list().data[0].expires_at == later
    assert client.caches.keep(cache).expires_at is None
    url = f"{client.url}/v1/caches/{cache}"
    for body in ({"expires_at": 30}, {"expires_at": later * 1000}, {}, {"expires_at": "soon"},
                 {"expires_at": None, "uri": "/etc"}):  # fmt: skip
        answer = httpx.patch(url, json=body)
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation-failed")
    assert Path(spec.output).exists()


def test_what_a_job_has_written_goes_with_it(
    client: Client, spec: ScoreSpec, tmp_path: Path
) -> None:
    registry: Registry = client.registry  # pyright: ignore
    left = make_cache(tmp_path / "left", {"three": "3"})
    Path(left.output, "manifest.json").unlink()
    ended = registry.advance(registry.add(left), JobState.FAILED)
    client.jobs.delete(ended.id, with_output=True)
    wait_until(lambda: not Path(left.output).exists(), tmp_path / "none")
    assert registry.get(ended.id) is None

    other = registry.advance(registry.add(spec), JobState.FAILED)
    with pytest.raises(ServiceError, match="has committed"):
        client.jobs.delete(other.id, with_output=True)
    running = unfinished(registry, spec)
    with pytest.raises(ServiceError, match="cancel it first"):
        client.jobs.delete(running.id, with_output=True)
    (cache,) = client.caches.list().data
    with pytest.raises(ServiceError, match=f"job {running.id} is queued"):
        client.jobs.delete(cache.job, with_output=True)
    assert registry.get(cache.job) is not None
    assert Path(spec.output, "manifest.json").exists()


def test_a_scope_of_its_own_deletes(tmp_path: Path, spec: ScoreSpec) -> None:
    app = create_app(settings_without_ray(tmp_path))
    row = completed(app.state.registry, spec)
    _, key = app.state.keys.create("writer", ["jobs:write", "caches:read"])
    with served(app) as url, Client(url, api_key=key) as client:
        with pytest.raises(ServiceError, match="caches:write"):
            client.caches.delete(cache_id(spec.output))
        with pytest.raises(ServiceError, match="caches:write"):
            client.jobs.delete(row.id, with_output=True)
    assert Path(spec.output, "manifest.json").exists()


def test_expired_caches_go_and_those_in_use_stay(
    registry: Registry, deletions: Deletions, spec: ScoreSpec
) -> None:
    completed(registry, spec)
    (cache,) = registry.caches.newest(1)
    deletions.delete_due()
    assert Path(spec.output).exists(), "none expires by itself"
    now = int(time.time())
    registry.caches.keep_until(cache, now + 10**6)
    deletions.delete_due()
    row = unfinished(registry, spec)
    registry.caches.keep_until(cache, now - 1)
    deletions.delete_due()
    assert registry.caches.newest(1) != [], "a job is at work on it"
    registry.advance(row, JobState.CANCELLING)
    row = registry.get(row.id) or row
    registry.advance(row, JobState.CANCELLED)
    deletions.delete_due()
    assert registry.caches.newest(1) == []
    assert not Path(spec.output).exists()


def test_what_cannot_be_deleted_is_tried_again(
    registry: Registry, deletions: Deletions, spec: ScoreSpec, tmp_path: Path
) -> None:
    """It is listed no more, and its files go as soon as they can; others don't wait for them."""
    other = make_cache(tmp_path / "other", {"three": "3"})
    outside = f"{tmp_path.parent}/outside"
    for place in (spec.output, outside, other.output):
        registry.caches.give_up(place)
    with Lease(spec.output, "job_1", renew_seconds=0.05):
        deletions.delete_due()
        deletions.delete_due()
    assert not Path(other.output).exists()
    assert {row.uri for row in registry.caches.given_up()} == {spec.output, outside}
    assert Path(spec.output, "manifest.json").exists()
    deletions.delete_due()
    assert not Path(spec.output).exists()
    assert [row.uri for row in registry.caches.given_up()] == [outside]


def test_files_that_are_gone_are_deleted(
    registry: Registry, deletions: Deletions, spec: ScoreSpec
) -> None:
    shutil.rmtree(spec.output)
    registry.caches.give_up(spec.output)
    deletions.delete_due()
    assert registry.caches.given_up() == []


def test_a_job_waits_until_the_cache_that_was_there_is_gone(
    registry: Registry, spec: ScoreSpec, tmp_path: Path
) -> None:
    """Else it would go on with shards that vanish."""
    started: list[str] = []

    class Drivers:
        def start(self, row: JobRow, start: int) -> None:
            started.append(row.id)

    leadership = Leadership(registry.engine)
    reconciler = Reconciler(registry, leadership, Drivers, [str(tmp_path)], 1)  # pyright: ignore
    registry.caches.give_up(spec.output)
    row = unfinished(registry, spec)
    reconciler.drive()
    assert started == []
    (deletion,) = registry.caches.given_up()
    registry.caches.forget(deletion)
    reconciler.drive()
    assert started == [row.id]


def test_a_commit_gives_a_cache_its_time_and_none_to_one_that_is_kept(registry: Registry) -> None:
    caches = registry.caches
    caches.add("/data/a", "1" * 64, "job_a", at=1, expires_at=10**9)
    (cache,) = caches.newest(1)
    assert cache.expires_at == 10**9
    caches.add("/data/a", "1" * 64, "job_b", at=2, expires_at=2 * 10**9)
    assert caches.find(cache.id).expires_at == 2 * 10**9
    caches.keep_until(cache, None)
    caches.add("/data/a", "1" * 64, "job_c", at=3, expires_at=3 * 10**9)
    assert (caches.find(cache.id).expires_at, caches.find(cache.id).job) == (None, "job_c")
    caches.give_up("/data/a")
    with pytest.raises(CacheNotFound):
        caches.keep_until(cache, None)


def test_the_caches_of_several_references_are_in_use_and_go_together(
    client: Client, spec: ScoreSpec, tmp_path: Path
) -> None:
    registry: Registry = client.registry  # pyright: ignore
    beside = make_cache(tmp_path / "beside", {"one": "1"})
    other = {"reference": {"model": "hf-hub:a/b"}, "output": f"{tmp_path}/beside/../beside/cache"}
    several = ScoreSpec.model_validate(spec.model_dump() | {"also": [other]})
    row = unfinished(registry, several)
    registry.caches.add(beside.output, "f" * 64, row.id, at=1)
    with pytest.raises(ServiceError, match=f"job {row.id} is queued"):
        client.caches.delete(cache_id(beside.output))
    ended = registry.advance(registry.advance(row, JobState.CANCELLING), JobState.CANCELLED)
    with pytest.raises(ServiceError, match="has committed"):  # the first, a job before it
        client.jobs.delete(ended.id, with_output=True)
    assert Path(beside.output).exists()
    registry.caches.add(spec.output, "e" * 64, row.id, at=2)
    client.jobs.delete(ended.id, with_output=True)
    wait_until(
        lambda: not (Path(beside.output).exists() or Path(spec.output).exists()), tmp_path / "none"
    )
    assert client.caches.list().data == []
