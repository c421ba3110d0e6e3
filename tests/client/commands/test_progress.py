import pytest

from rhocache.commands.progress import Seen, duration


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_what_is_not_known_is_not_said() -> None:
    assert str(Seen("planning", 0, 0, 0, 0, 0.0, None)) == "0 pairs"
    assert str(Seen("encoding", 1, 3, 7, 2, 9.96, 61)) == "7 pairs, 2 failed, 10.0/s, 1:01 left"
