import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from rhocache_schemas.cache.documents import Fault
from rhocache_schemas.errors import JobStateConflict, StorageError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import open_database, parse_url
from rhocache_service.settings import Settings

SPEC = ScoreSpec.model_validate(
    {"dataset": "/d", "output": "/o", "reference": {"model": "local-dir:/m"}}
)


@pytest.fixture
def registry(database: Engine) -> Registry:
    return Registry(database)


def test_a_job_goes_through_its_states_with_their_times(registry: Registry) -> None:
    row = registry.add(SPEC)
    assert (row.state, row.job_spec()) == (JobState.VALIDATING, SPEC)
    for state in (JobState.QUEUED, JobState.IN_PROGRESS, JobState.FINALIZING, JobState.COMPLETED):
        assert row.id in {active.id for active in registry.active()}
        row = registry.advance(row, state)
        assert row.state is state
        assert int(row.created_at) <= row.times[state]
    assert row.id not in {active.id for active in registry.active()}


def test_a_job_of_the_time_before_there_were_kinds_is_of_score(registry: Registry) -> None:
    row = registry.add(SPEC)
    registry.note(row, spec=SPEC.model_dump(mode="json", exclude={"kind"}))
    found = registry.get(row.id)
    assert found is not None
    assert found.job_spec() == SPEC


def test_where_jobs_that_have_not_ended_write(registry: Registry) -> None:
    for output in ("/a", "/b", "/b"):
        registry.add(SPEC.model_copy(update={"output": output}))
    registry.advance(registry.add(SPEC), JobState.FAILED)
    registry.note(registry.add(SPEC), spec={})  # ruined
    assert registry.outputs() == {"/a", "/b"}


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
    first = registry.newest(2)
    assert [row.id for row in first] == [ids[4], ids[3]]
    assert [row.id for row in registry.newest(2, first[-1], None)] == [ids[2], ids[1]]
    registry.advance(first[0], JobState.QUEUED)
    assert [row.id for row in registry.newest(1, None, JobState.QUEUED)] == [ids[4]]


def test_jobs_are_found_by_their_metadata(registry: Registry) -> None:
    def add(**metadata: str) -> str:
        return registry.add(SPEC.model_copy(update={"metadata": metadata})).id

    def found(**metadata: str) -> list[str]:
        return [row.id for row in registry.newest(9, metadata=metadata)]

    odd = "\"é'%_$.[0]\\"
    one = add(owner="vision", run="1")
    two = add(owner="vision", run="2", **{odd: odd})
    three = add(owner="text", nul="\0")
    assert found() == [three, two, one]
    assert found(owner="vision") == [two, one]
    assert found(owner="vision", run="1") == [one]
    assert found(**{odd: odd}) == [two]
    assert found(owner="vis%") == found(owner="") == found(nul="\0") == found(other="1") == []
    rows = registry.newest(9, metadata={"owner": "vision"})
    assert [row.id for row in registry.newest(1, rows[0], metadata={"owner": "vision"})] == [one]
    registry.delete(registry.advance(rows[0], JobState.FAILED))
    assert found(owner="vision") == [one]


def test_what_another_process_wrote_is_there(tmp_path: Path) -> None:
    url = Settings(data_dir=tmp_path).registry_url
    job = Registry(open_database(url)).add(SPEC).id
    again = Registry(open_database(url)).get(job)
    assert again is not None
    assert again.job_spec() == SPEC


def test_a_database_that_is_not_there_is_named_without_its_password() -> None:
    url = Settings(database_url="postgresql://u:secret@127.0.0.1:9/db").registry_url
    with pytest.raises(
        StorageError, match=r"cannot open the registry .*127\.0\.0\.1:9/db"
    ) as caught:
        open_database(url)
    assert "secret" not in str(caught.value)


def test_a_database_of_no_encoding_keeps_every_text(postgres: Any) -> None:
    postgres.psql("CREATE DATABASE plain ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0;")
    engine = open_database(parse_url(postgres.get_uri("plain")))
    registry = Registry(engine)
    row = registry.add(SPEC.model_copy(update={"metadata": {"owner": "Zoë – 視覚"}}))
    found = registry.get(row.id)
    engine.dispose()
    assert found is not None
    assert found.job_spec().metadata == {"owner": "Zoë – 視覚"}


def test_services_that_start_at_once_make_the_tables_once(postgres: Any) -> None:
    postgres.psql("CREATE DATABASE at_once;")
    code = (
        "import sys; from rhocache_service.registry.tables import open_database, parse_url; "
        "open_database(parse_url(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, postgres.get_uri("at_once")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    told = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, told


def test_events_are_numbered_and_can_be_read_from_anywhere(registry: Registry) -> None:
    row = registry.add(SPEC)
    row = registry.advance(row, JobState.QUEUED, shards=3)
    assert registry.note(row, [("job.progress", {"a": 1}), ("shard.committed", {"shard": "é"})])
    registry.advance(row, JobState.FAILED, Fault(code="dataset", detail="gone"))
    found = registry.events(row.id, 0)
    assert [(event.number, event.kind) for event in found] == [
        (1, "job.status"), (2, "job.status"), (3, "job.progress"), (4, "shard.committed"),
        (5, "job.status"),
    ]  # fmt: skip
    assert found[-1].data == {
        "status": "failed", "error": {"code": "dataset", "detail": "gone"},
    }  # fmt: skip
    assert [event.number for event in registry.events(row.id, 3, limit=1)] == [4]
    assert registry.last_events([row.id, "job_none"]) == {row.id: 5}


def test_events_of_many_writers_have_no_gap_and_no_double(registry: Registry) -> None:
    row = registry.add(SPEC)

    def write() -> None:
        for _ in range(20):
            registry.note(row, [("job.progress", {})])

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [event.number for event in registry.events(row.id, 0)]
    assert numbers == list(range(1, 82))


def test_the_most_urgent_is_first(registry: Registry) -> None:
    usual, urgent, late = (registry.add(SPEC, priority=p).id for p in (0, 5, 0))
    found = [row.id for row in registry.active() if row.id in (usual, urgent, late)]
    assert found == [urgent, usual, late]


def test_a_job_at_an_end_is_forgotten(registry: Registry) -> None:
    row = registry.add(SPEC)
    with pytest.raises(JobStateConflict, match="cancel it first"):
        registry.delete(row)
    registry.delete(registry.advance(row, JobState.FAILED))
    assert registry.get(row.id) is None
    assert registry.events(row.id, 0) == []


def test_what_a_key_may_submit(registry: Registry) -> None:
    for _ in range(3):
        registry.add(SPEC, api_key="k")
    assert registry.waiting("k") == 3
    count, reset = registry.submitted("k")
    assert (count, 50 < reset <= 60) == (3, True)
    assert registry.submitted(None) == (0, 0)


def test_the_job_that_does_the_same(registry: Registry) -> None:
    first = registry.add(SPEC, content_sha256="aa")
    registry.add(SPEC, content_sha256="aa", follows=first.id)
    assert registry.at_work("aa") == first.id
    registry.advance(first, JobState.CANCELLING)
    assert registry.at_work("aa") is None


def test_of_an_ended_job_the_rate_is_kept_over_its_whole_run(registry: Registry) -> None:
    row = registry.advance(registry.add(SPEC), JobState.QUEUED)
    row = registry.advance(row, JobState.IN_PROGRESS)
    for second in range(1000):
        told = [("job.progress", {"pairs_per_second": float(second)})]
        if second % 2:  # what else is told must not crowd the rate out
            told += [("shard.committed", {"shard": f"{second}"})] * 3
        registry.note(row, told)
    running = [rate for _, rate in registry.rates(row.id)]
    registry.advance(row, JobState.FAILED)
    kept = [rate for _, rate in registry.rates(row.id)]
    assert kept == running == [float(second) for second in range(3, 1000, 4)]
    kinds = [event.kind for event in registry.events(row.id, 0, 10_000)]
    assert kinds.count("job.progress") == 250
    assert kinds.count("shard.committed") == 1500
    assert list(registry.shard_outcomes(row.id, 6)) == ["997", "999"]
