import pytest

from rhocache.commands.progress import Seen, duration
from rhocache_schemas.cache.documents import Progress, Step


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_what_is_not_known_is_not_said() -> None:
    assert Seen("starting Ray", 5.0, 0, 3, 0, 0, 0.0, None).counts == ""
    told = Seen("encoding", None, 1, 3, 7, 2, 9.96, 61).counts
    assert told == "1/3 shards, 7 pairs, 2 failed, 10.0/s, 1:01 left"


def test_a_run_is_at_its_last_step() -> None:
    steps = [
        Step(name="starting Ray", started_at=1.0, ended_at=5.0),
        Step(name="encoding", started_at=5.0),
    ]
    seen = Seen.of_run(Progress(phase="encoding", steps=steps, updated_at=6.0))
    assert (seen.doing, seen.since) == ("encoding", 5.0)
