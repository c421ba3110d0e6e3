"""Whether an encoder on a node that goes away finishes its shard."""

import time

import pytest

from rhocache_schemas.dataset.shards import Shard
from rhocache_workers.cluster.members import Member, Pace, Task
from rhocache_workers.cluster.placement import Place

# Seconds since the shard was begun, seconds that one of half its bytes took, seconds until the node
# is gone -> whether it fits.
CASES = [
    (None, 5.0, 600.0, False),  # it is only read so far: another may as well begin
    (4.0, 5.0, 9.0, True),
    (4.0, 5.0, 7.0, False),  # nothing to spare for the file
    (12.0, 5.0, 3.0, True),  # it is late, but then it is soon done
    (12.0, 5.0, 1.0, False),
    (4.0, None, 3.0, True),  # nothing is known yet
    (4.0, None, -1.0, False),
    (4.0, 5e9, float("inf"), True),  # nobody has said when
]


@pytest.mark.parametrize(("begun", "half", "seconds", "fits"), CASES)
def test_what_is_done_in_time_is_finished(
    begun: float | None, half: float | None, seconds: float, fits: bool
) -> None:
    pace = Pace() if half is None else Pace(half, 500)
    member = Member(None, Place("node", 1, 0), None, 0.0, pace=pace)
    task = Task(member, Shard("a.tar", "/a.tar", 1000, 0), begun and time.monotonic() - begun)
    assert task.fits_in(seconds, Pace()) is fits
    member.pace = Pace()
    assert task.fits_in(seconds, pace) is fits, "by what other encoders took"
