"""Whether an encoder on a node that goes away finishes its shard."""

import time

import pytest

from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.cluster.actor_pool import Crew, _Member, _Pace, _Task
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
    spec: ScoreSpec, begun: float | None, half: float | None, seconds: float, fits: bool
) -> None:
    crew = Crew(spec, None, {}, lambda _: None)
    pace = _Pace() if half is None else _Pace(half, 500)
    member = _Member(None, Place("node", 1, 0), None, 0.0, pace=pace)
    task = _Task(member, Shard("a.tar", "/a.tar", 1000, 0), begun and time.monotonic() - begun)
    assert crew._fits(task, seconds) is fits
    member.pace, crew._pace = _Pace(), pace
    assert crew._fits(task, seconds) is fits, "by what other encoders took"
