"""What is decided of a job before any driver runs; test_lifecycle.py has the rest."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rhocache_schemas.job import JobSpec, JobState
from rhocache_service.reconciler import Reconciler
from rhocache_service.registry import JobRow, Registry
from rhocache_service.settings import Settings


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
    registry = Registry(Settings(data_dir=tmp_path).registry_url)
    yield registry
    registry.close()


@pytest.fixture
def reconciler(registry: Registry, root: Path) -> Reconciler:
    without_ray: Any = lambda: None  # noqa: E731
    return Reconciler(registry, without_ray, [str(root)], max_running_jobs=1)


def add(registry: Registry, dataset: str, root: Path, **fields: Any) -> JobRow:
    reference = {"model": f"local-dir:{root}"}
    spec = {"dataset": dataset, "output": f"{root}/cache", "reference": reference, **fields}
    return registry.add(JobSpec.model_validate(spec))


def again(registry: Registry, row: JobRow) -> JobRow:
    found = registry.get(row.id)
    assert found is not None
    return found


def test_a_job_with_shards_is_queued(
    reconciler: Reconciler, registry: Registry, root: Path
) -> None:
    row = add(registry, f"{root}/dataset", root)
    reconciler.step()
    assert (again(registry, row).state, again(registry, row).shards) == (JobState.QUEUED, 1)


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
    reconciler.step()
    assert (again(registry, row).state, again(registry, row).error_code) == (JobState.FAILED, code)


def test_a_job_that_never_started_is_cancelled_at_once(
    reconciler: Reconciler, registry: Registry, root: Path
) -> None:
    row = registry.advance(add(registry, f"{root}/dataset", root), JobState.CANCELLING)
    reconciler.step()
    assert again(registry, row).state == JobState.CANCELLED


def test_a_job_that_can_not_be_handled_does_not_hold_up_the_others(
    reconciler: Reconciler, registry: Registry, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ruined = add(registry, f"{root}/dataset", root)
    registry.note(ruined, spec={})
    row = add(registry, f"{root}/dataset", root)
    reconciler.step()
    assert again(registry, row).state == JobState.QUEUED
    assert f"{ruined.id}: unforeseen" in caplog.text
