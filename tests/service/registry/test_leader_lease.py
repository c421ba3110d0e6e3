import time
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.engine import Engine

from rhocache_schemas.errors import RequestInFlight
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_service.registry import leader_lease, tables
from rhocache_service.registry.idempotency import Answers
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.leader_lease import SECONDS, Leadership
from rhocache_service.registry.tables import AnswerRow, LeaseRow

HOUR = 3600.0


class Clocks:
    """The clocks as the code reads them: one that can be set, and one that only goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set, self.passed = 0.0, 0.0
        started, wall = time.monotonic(), tables.now
        monkeypatch.setattr(time, "monotonic", lambda: started + self.passed)
        for module in (tables, leader_lease):
            monkeypatch.setattr(module, "now", lambda c: wall(c) + self.set + self.passed)
        for name in ("jobs", "idempotency"):
            module = __import__(f"rhocache_service.registry.{name}", fromlist=["now"])
            monkeypatch.setattr(module, "now", lambda c: wall(c) + self.set + self.passed)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.fixture
def registry(database: Engine) -> Registry:
    return Registry(database)


def test_one_leads_until_it_is_gone(database: Engine, clocks: Clocks) -> None:
    first, second = Leadership(database), Leadership(database)
    assert first.hold()
    assert not second.hold()
    assert first.hold(), "renewed"
    first.give_up()
    assert second.hold()
    assert not first.hold()
    clocks.passed += SECONDS - 1
    assert second.hold()
    clocks.passed += SECONDS - 1
    assert not first.hold(), "it was renewed since"
    clocks.passed += SECONDS + 1
    assert first.hold(), "the second said nothing for so long"
    assert not second.hold()


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_is_set_gives_the_lease_to_nobody_and_keeps_it_from_nobody(
    database: Engine, clocks: Clocks, jump: float
) -> None:
    first, second = Leadership(database), Leadership(database)
    assert first.hold()
    assert not second.hold()
    clocks.set = jump
    assert not second.hold()
    assert first.hold()
    assert not second.hold()
    clocks.passed += SECONDS + 1
    assert second.hold()


def test_two_threads_and_a_race(database: Engine) -> None:
    """Of two that find the same lease old, one gets it."""
    first, second, third = (Leadership(database) for _ in range(3))
    assert first.hold()
    assert not second.hold()
    assert not third.hold()
    with database.begin() as connection:
        connection.execute(update(LeaseRow).values(holder="", renewals=7))
    assert [each.hold() for each in (second, third)] == [True, False]


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_deadline_comes_when_so_many_seconds_have_passed(
    registry: Registry, clocks: Clocks, jump: float
) -> None:
    leader = Leadership(registry.engine)
    assert leader.hold()
    row = registry.add(spec(), deadline=registry.now() + 60)
    clocks.set = jump
    assert leader.hold()
    assert leader.hold(), "moved once"
    left = (row_of(registry, row.id).deadline or 0) - registry.now()
    assert 50 < left < 61
    clocks.passed += 5
    assert leader.hold()
    left = (row_of(registry, row.id).deadline or 0) - registry.now()
    assert 45 < left <= 55


def test_a_clock_that_was_set_back_while_nobody_led(registry: Registry, clocks: Clocks) -> None:
    clocks.set = HOUR
    leader = Leadership(registry.engine)
    assert leader.hold()
    row = registry.add(spec(), deadline=registry.now() + 60)
    leader.give_up()
    clocks.set = 0
    assert Leadership(registry.engine).hold()
    left = (row_of(registry, row.id).deadline or 0) - registry.now()
    assert 50 < left < 61


def test_a_job_at_its_end_keeps_its_times(registry: Registry, clocks: Clocks) -> None:
    leader = Leadership(registry.engine)
    assert leader.hold()
    row = registry.add(spec(), deadline=9.0)
    registry.advance(row, JobState.EXPIRED)
    clocks.set = HOUR
    assert leader.hold()
    assert row_of(registry, row.id).deadline == 9.0


def test_limits_do_not_wait_for_a_time_to_come(registry: Registry, clocks: Clocks) -> None:
    registry.add(spec(), api_key="k")
    count, reset = registry.submitted("k")
    assert (count, 50 < reset <= 60) == (1, True)
    clocks.set = -HOUR
    assert registry.submitted("k") == (0, 0)
    registry.add(spec(), api_key="k")
    count, reset = registry.submitted("k")
    assert (count, 50 < reset <= 60) == (1, True)


def test_a_request_whose_service_was_killed_before_the_clock_was_set_back(
    database: Engine, clocks: Clocks
) -> None:
    answers = Answers(database)
    assert answers.begin("", "key", b"request") is None
    with pytest.raises(RequestInFlight):
        answers.begin("", "key", b"request")
    clocks.set = -HOUR
    assert answers.begin("", "key", b"request") is None


def test_answers_are_kept_as_long_as_ever(database: Engine, clocks: Clocks) -> None:
    leader = Leadership(database)
    assert leader.hold()
    assert Answers(database).begin("", "key", b"request") is None
    clocks.set = 48 * HOUR
    assert leader.hold()
    with database.connect() as connection:
        at = connection.scalar(select(AnswerRow.at)) or 0.0
        assert abs(at - leader_lease.now(connection)) < 10


def spec(**fields: Any) -> ScoreSpec:
    reference = {"model": "local-dir:/m"}
    return ScoreSpec.model_validate({"dataset": "/d", "output": "/o", "reference": reference})


def row_of(registry: Registry, job: str) -> Any:
    row = registry.get(job)
    assert row is not None
    return row
