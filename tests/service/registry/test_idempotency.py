import threading

import pytest
from sqlalchemy import update
from sqlalchemy.engine import Engine

from rhocache_schemas.errors import IdempotencyKeyReused, RequestInFlight
from rhocache_service.registry.idempotency import (
    IN_FLIGHT_SECONDS,
    KEEP_SECONDS,
    Answer,
    Answers,
)
from rhocache_service.registry.tables import AnswerRow

ANSWER = Answer(202, {"Location": "/v1/jobs/job_1"}, '{"é": 1}')


@pytest.fixture
def answers(database: Engine) -> Answers:
    return Answers(database)


def age(database: Engine, seconds: float) -> None:
    with database.begin() as connection:
        connection.execute(update(AnswerRow).values(at=AnswerRow.at - seconds))


def test_the_same_request_is_answered_the_same(answers: Answers) -> None:
    assert answers.begin("k", "1", b"request") is None
    with pytest.raises(RequestInFlight):
        answers.begin("k", "1", b"request")
    answers.end("k", "1", ANSWER)
    assert answers.begin("k", "1", b"request") == ANSWER
    with pytest.raises(IdempotencyKeyReused):
        answers.begin("k", "1", b"another")
    assert answers.begin("other", "1", b"another") is None


def test_a_request_that_failed_may_be_tried_again(answers: Answers) -> None:
    answers.begin("k", "1", b"request")
    answers.end("k", "1", None)
    assert answers.begin("k", "1", b"another") is None


def test_what_is_forgotten(answers: Answers, database: Engine) -> None:
    answers.begin("k", "lost", b"request")
    answers.begin("k", "done", b"request")
    answers.end("k", "done", ANSWER)
    age(database, IN_FLIGHT_SECONDS + 1)
    assert answers.begin("k", "lost", b"request") is None
    assert answers.begin("k", "done", b"request") == ANSWER
    age(database, KEEP_SECONDS)
    assert answers.begin("k", "done", b"request") is None


def test_of_many_at_once_one_is_done(answers: Answers) -> None:
    outcomes: list[str] = []

    def begin() -> None:
        try:
            answers.begin("k", "1", b"request")
            outcomes.append("done")
        except RequestInFlight:
            outcomes.append("waits")

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["done"] + ["waits"] * 7
