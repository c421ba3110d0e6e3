"""What is decided of a job before any driver runs; test_lifecycle.py has the rest."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from caches import flip_index

from rhocache_schemas.cache.documents import Fault, Progress, ShardOutcome
from rhocache_schemas.errors import JobError, RayUnreachable
from rhocache_schemas.job.kinds import read_spec
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.leader_lease import Leadership
from rhocache_service.registry.tables import JobRow, open_database
from rhocache_service.scheduling.drivers import DriverState
from rhocache_service.scheduling.reconciler import Reconciler
from rhocache_service.settings import Settings

from ..made import SHARD, make_cache


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An allowed folder with a shard, and a link to one that lies outside."""
    for name in ("root/dataset", "outside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.tar").touch()
    (tmp_path / "root" / "linked").mkdir()
    (tmp_path / "root" / "linked" / "0.tar").symlink_to(tmp_path / "outside" / "0.tar")
    return tmp_path / "root"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(open_database(Settings(data_dir=tmp_path).registry_url))
    yield registry
    registry.close()


@pytest.fixture
def reconciler(registry: Registry, root: Path) -> Reconciler:
    without_ray: Any = lambda: None  # noqa: E731
    leadership = Leadership(registry.engine)
    return Reconciler(registry, leadership, without_ray, [str(root)], max_running_jobs=1)


def add(registry: Registry, dataset: str, root: Path, **fields: Any) -> JobRow:
    reference = {"model": f"local-dir:{root}"}
    spec = {"dataset": dataset, "output": f"{root}/cache", "reference": reference} | fields
    return registry.add(ScoreSpec.model_validate(spec))


def step(reconciler: Reconciler) -> None:
    """Look at every unfinished job once, as the service's three loops do."""
    reconciler.end_idle()
    reconciler.drive()
    reconciler.admit()


def again(registry: Registry, row: JobRow) -> JobRow:
    found = registry.get(row.id)
    assert found is not None
    return found


def test_a_job_with_shards_is_queued(
    reconciler: Reconciler, registry: Registry, root: Path
) -> None:
    row = add(registry, f"{root}/dataset", root)
    step(reconciler)
    assert (again(registry, row).state, again(registry, row).shards) == (JobState.QUEUED, 1)


@pytest.mark.parametrize("replace", [False, True])
def test_a_job_with_another_dataset_for_a_cache_fails_before_it_has_a_driver(
    reconciler: Reconciler, registry: Registry, root: Path, replace: bool
) -> None:
    made = make_cache(root / "made", {"0": "a"})
    (root / "dataset" / SHARD).write_bytes(bytes(10240))
    before = {file: file.read_bytes() for file in Path(made.output).rglob("*.*")}
    row = add(registry, f"{root}/dataset", root, output=made.output, replace=replace)
    step(reconciler)
    found = again(registry, row)
    if replace:
        assert found.state is JobState.QUEUED
    else:
        assert (found.state, found.error_code) == (JobState.FAILED, "dataset-mismatch")
        detail = found.error_detail or ""
        assert f"holds {made.dataset}, and {root}/dataset is another" in detail
    assert {file: file.read_bytes() for file in Path(made.output).rglob("*.*")} == before


@pytest.mark.parametrize("replace", [False, True])
def test_a_job_for_a_cache_with_a_damaged_index_fails_before_it_has_a_driver(
    reconciler: Reconciler, registry: Registry, root: Path, replace: bool
) -> None:
    made = make_cache(root / "made", {"0": "a"})
    told = flip_index(made.output)
    row = registry.add(made.model_copy(update={"replace": replace}))
    step(reconciler)
    found = again(registry, row)
    if replace:
        assert found.state is JobState.QUEUED
    else:
        assert (found.state, found.error_code) == (JobState.FAILED, "cache-corrupt")
        assert re.search(told, found.error_detail or "")


@pytest.mark.parametrize(
    ("dataset", "fields", "code"),
    [
        ("/absent", {}, "dataset"),
        ("/dataset", {"shards": "1*.tar"}, "dataset"),
        ("/linked", {}, "uri-not-allowed"),
        ("/dataset/{0.tar,../../outside/0.tar}", {}, "uri-not-allowed"),
    ],
)
def test_a_job_without_shards_that_it_may_read_fails(
    reconciler: Reconciler,
    registry: Registry,
    root: Path,
    dataset: str,
    fields: dict[str, Any],
    code: str,
) -> None:
    row = add(registry, f"{root}{dataset}", root, **fields)
    step(reconciler)
    assert (again(registry, row).state, again(registry, row).error_code) == (JobState.FAILED, code)


def test_a_job_that_never_started_is_cancelled_at_once(
    reconciler: Reconciler, registry: Registry, root: Path
) -> None:
    row = registry.advance(add(registry, f"{root}/dataset", root), JobState.CANCELLING)
    step(reconciler)
    assert again(registry, row).state == JobState.CANCELLED


def test_a_job_that_can_not_be_handled_does_not_hold_up_the_others(
    reconciler: Reconciler, registry: Registry, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ruined = add(registry, f"{root}/dataset", root)
    registry.note(ruined, spec={})
    row = add(registry, f"{root}/dataset", root)
    step(reconciler)
    assert again(registry, row).state == JobState.QUEUED
    assert f"{ruined.id}: unforeseen" in caplog.text


def test_a_job_of_a_kind_that_is_not_installed_fails(
    reconciler: Reconciler, registry: Registry, root: Path
) -> None:
    row = registry.add(read_spec({"kind": "gone", "output": f"{root}/out"}))
    step(reconciler)
    found = again(registry, row)
    assert (found.state, found.error_code) == (JobState.FAILED, "invalid-input")
    assert "no job kind 'gone'" in (found.error_detail or "")


def test_a_job_goes_along_with_the_one_that_it_repeats(
    reconciler: Reconciler, registry: Registry, root: Path
) -> None:
    leader = add(registry, f"{root}/dataset", root)
    row = registry.add(leader.job_spec(), follows=leader.id)
    step(reconciler)
    assert again(registry, row).state == JobState.QUEUED
    leader = registry.advance(again(registry, leader), JobState.IN_PROGRESS)
    outcome = ShardOutcome(shard="0.tar", rows=3, failed=1)
    progress = Progress(
        phase="encoding",
        shards_total=1,
        shards_ended=1,
        recent=[outcome],
        pairs_done=3,
        updated_at=1.0,
    )
    registry.note(leader, progress=progress.model_dump(mode="json"))
    fingerprint = "f" * 64
    leader = registry.advance(leader, JobState.FINALIZING)
    registry.advance(leader, JobState.COMPLETED, fingerprint=fingerprint)
    step(reconciler)
    done = again(registry, row)
    assert (done.state, done.fingerprint, done.shards) == (JobState.COMPLETED, fingerprint, 1)
    assert done.progress is not None
    assert done.progress["pairs_done"] == 3
    statuses = [e.data["status"] for e in registry.events(row.id, 0) if e.kind == "job.status"]
    assert statuses == ["validating", "queued", "in_progress", "finalizing", "completed"]


def test_it_fails_with_it_but_is_not_stopped_with_it(
    reconciler: Reconciler, registry: Registry, root: Path
) -> None:
    leader = add(registry, f"{root}/dataset", root)
    row = registry.add(leader.job_spec(), follows=leader.id)
    stopped = registry.advance(leader, JobState.CANCELLING)
    step(reconciler)  # the leader is looked at first, and has no driver to wait for
    assert again(registry, row).follows is None
    assert again(registry, stopped).state == JobState.CANCELLED
    step(reconciler)
    assert again(registry, row).state == JobState.QUEUED, "validated by itself"

    other = add(registry, f"{root}/dataset", root)
    row = registry.add(other.job_spec(), follows=other.id)
    registry.advance(other, JobState.FAILED, Fault(code="dataset", detail="gone"))
    step(reconciler)
    failed = again(registry, row)
    assert (failed.state, failed.error_code) == (JobState.FAILED, "dataset")
    assert other.id in (failed.error_detail or "")


def test_a_deadline(reconciler: Reconciler, registry: Registry, root: Path) -> None:
    spec = add(registry, f"{root}/dataset", root).job_spec()
    late = registry.add(spec, deadline=time.time() - 1)
    queued = registry.advance(registry.add(spec, deadline=time.time() - 1), JobState.QUEUED)
    early = registry.add(spec, deadline=time.time() + 60)
    running = registry.advance(registry.add(spec, deadline=time.time() - 1), JobState.QUEUED)
    registry.advance(running, JobState.IN_PROGRESS)
    step(reconciler)
    assert again(registry, late).state == JobState.EXPIRED
    assert again(registry, queued).state == JobState.EXPIRED
    assert again(registry, early).state == JobState.QUEUED
    step(reconciler)  # it had no driver: nothing to wait for
    assert again(registry, running).state == JobState.EXPIRED


def test_one_service_of_several_moves_the_jobs(
    registry: Registry, root: Path, reconciler: Reconciler
) -> None:
    row = add(registry, f"{root}/dataset", root)
    leader = Leadership(registry.engine)
    assert leader.hold()
    step(reconciler)
    assert again(registry, row).state == JobState.VALIDATING
    leader.give_up()
    step(reconciler)
    assert again(registry, row).state == JobState.QUEUED


def test_a_long_queue_costs_no_more_than_a_short_one(registry: Registry, root: Path) -> None:
    for _ in range(250):
        registry.advance(add(registry, f"{root}/dataset", root), JobState.QUEUED)
    late = registry.advance(add(registry, "/d", root), JobState.QUEUED)
    registry.note(late, deadline=1.0)
    urgent = registry.advance(registry.add(late.job_spec(), priority=1), JobState.QUEUED)
    found = [row.id for row in registry.active()]
    assert len(found) <= 202
    assert found[0] == urgent.id
    assert late.id in found


def test_keys_take_turns(registry: Registry, root: Path) -> None:
    """Who has queued many jobs, or has one running, does not keep others waiting."""

    def queue(key: str | None, count: int, **fields: Any) -> list[str]:
        rows = (
            registry.add(spec.model_copy(update={"output": f"{root}/{key}-{number}"}), api_key=key,
                         **fields)
            for number in range(count)
        )  # fmt: skip
        return [registry.advance(row, JobState.QUEUED).id for row in rows]

    spec = ScoreSpec.model_validate(
        {"dataset": "/d", "output": "/o", "reference": {"model": "local-dir:/m"}}
    )
    many, few, nobody = queue("many", 250), queue("few", 2), queue(None, 1)
    turns = [row.id for row in registry.active()]
    assert turns[:6] == [many[0], few[0], nobody[0], many[1], few[1], many[2]]
    running = registry.get(few[0])
    assert running is not None
    registry.advance(running, JobState.IN_PROGRESS, started_at=registry.now())
    turns = [row.id for row in registry.active() if row.state is JobState.QUEUED]
    assert turns[:4] == [many[0], nobody[0], many[1], few[1]], "one of few's is running"
    urgent = queue("many", 1, priority=1)
    turns = [row.id for row in registry.active() if row.state is JobState.QUEUED]
    assert turns[0] == urgent[0]


class Started:
    """Drivers that begin and never end."""

    def __init__(self) -> None:
        self.jobs: list[str] = []

    def start(self, row: JobRow, _: int) -> None:
        self.jobs.append(row.id)

    def state(self, _job: str, _start: int) -> DriverState:
        return DriverState.RUNNING


def test_a_key_has_no_more_running_than_it_may(registry: Registry, root: Path) -> None:
    drivers: Any = Started()
    reconciler = Reconciler(
        registry, Leadership(registry.engine), lambda: drivers, [str(root)], max_running_jobs=4,
        max_running_jobs_of_key=2,
    )  # fmt: skip
    for key in ("a", "a", "a", "b"):
        row = registry.add(
            ScoreSpec.model_validate({
                "dataset": f"{root}/dataset", "output": f"{root}/{len(registry.active())}",
                "reference": {"model": f"local-dir:{root}"},
            }), api_key=key,
        )  # fmt: skip
        registry.advance(row, JobState.QUEUED)
    for _ in range(3):
        reconciler.drive()
    keys = [row.api_key for row in registry.active() if row.state is JobState.IN_PROGRESS]
    assert sorted(filter(None, keys)) == ["a", "a", "b"]
    assert len(drivers.jobs) == 3


def unreachable() -> Any:
    raise RayUnreachable("cannot reach Ray at http://127.0.0.1:9: ConnectionError")


def test_what_needs_no_ray_is_ended_without_it(registry: Registry, root: Path) -> None:
    leadership = Leadership(registry.engine)
    reconciler = Reconciler(registry, leadership, unreachable, [str(root)], max_running_jobs=1)
    spec = add(registry, f"{root}/dataset", root).job_spec()
    new = registry.advance(registry.add(spec), JobState.CANCELLING)
    queued = registry.advance(registry.add(spec), JobState.QUEUED)
    queued = registry.advance(queued, JobState.CANCELLING)
    follower = registry.advance(registry.add(spec, follows=new.id), JobState.CANCELLING)
    late = registry.advance(registry.add(spec, deadline=1.0), JobState.QUEUED)
    running = registry.advance(registry.add(spec), JobState.QUEUED)
    running = registry.advance(running, JobState.IN_PROGRESS, starts=1)
    running = registry.advance(running, JobState.CANCELLING)
    with pytest.raises(RayUnreachable):
        step(reconciler)
    ended = [again(registry, row).state for row in (new, queued, follower, late)]
    assert ended == [JobState.CANCELLED] * 3 + [JobState.EXPIRED]
    assert again(registry, running).state == JobState.CANCELLING, "its driver may still be at work"


def test_ray_dies_between_two_jobs(
    registry: Registry, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once is enough to know; no job is blamed for it."""
    spec = add(registry, f"{root}/dataset", root).job_spec()
    for _ in range(3):
        row = registry.advance(registry.add(spec), JobState.QUEUED)
        registry.advance(row, JobState.IN_PROGRESS, starts=1)
    asked = []

    class Dying:
        def state(self, job: str, _: int) -> Any:
            asked.append(job)
            unreachable()

    dying: Any = lambda: Dying()  # noqa: E731
    leadership = Leadership(registry.engine)
    reconciler = Reconciler(registry, leadership, dying, [str(root)], max_running_jobs=1)
    with pytest.raises(RayUnreachable):
        reconciler.drive()
    assert len(asked) == 1
    assert not caplog.records


def test_a_job_that_can_not_be_handled_fails_and_tells_why(
    reconciler: Reconciler, registry: Registry, root: Path
) -> None:
    ruined = add(registry, f"{root}/dataset", root)
    registry.note(ruined, spec={})
    endless = add(registry, f"{root}/{{0..99999999}}.tar", root)
    step(reconciler)
    assert again(registry, ruined).error_code == "internal"
    failed = again(registry, endless)
    assert (failed.state, failed.error_code) == (JobState.FAILED, "invalid-input")
    assert "1,000,000" in (failed.error_detail or "")


def test_a_trouble_is_told_once(
    registry: Registry, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = registry.advance(add(registry, f"{root}/dataset", root), JobState.QUEUED)
    registry.advance(row, JobState.IN_PROGRESS, starts=1)

    class Refusing:
        def state(self, job: str, _: int) -> Any:
            raise JobError(f"Ray does not tell of job {job}: it is busy")

    refusing: Any = lambda: Refusing()  # noqa: E731
    leadership = Leadership(registry.engine)
    reconciler = Reconciler(registry, leadership, refusing, [str(root)], max_running_jobs=1)
    for _ in range(3):
        step(reconciler)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_job_keeps_others_from_each_of_its_caches_and_lists_them_all(
    registry: Registry, root: Path
) -> None:
    drivers: Any = Started()
    reconciler = Reconciler(
        registry, Leadership(registry.engine), lambda: drivers, [str(root)], max_running_jobs=4
    )
    first, second = (make_cache(root / name, {"0": "a"}) for name in ("first", "second"))
    other = {"reference": {"model": f"local-dir:{root}/other"}, "output": second.output}
    several = ScoreSpec.model_validate(first.model_dump() | {"also": [other]})
    row = registry.advance(registry.add(several), JobState.QUEUED)
    reconciler.drive()
    alone = registry.advance(registry.add(second), JobState.QUEUED)
    reconciler.drive()
    assert drivers.jobs == [row.id]
    assert registry.outputs() == {first.output, second.output}

    manifest = Path(second.output, "manifest.json")
    manifest.rename(manifest.with_name("away"))
    drivers.state = lambda *_: DriverState.SUCCEEDED
    reconciler.drive()
    assert (again(registry, row).error_code, registry.caches.newest(9)) == ("cache-incomplete", [])
    assert second.output in (again(registry, row).error_detail or "")
    manifest.with_name("away").rename(manifest)

    registry.advance(alone, JobState.CANCELLING)
    row = registry.advance(registry.add(several), JobState.QUEUED)
    reconciler.drive()
    reconciler.drive()
    assert again(registry, row).state is JobState.COMPLETED
    listed = {(cache.uri, cache.job) for cache in registry.caches.newest(9)}
    assert listed == {(first.output, row.id), (second.output, row.id)}
