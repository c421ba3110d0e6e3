"""A job in virtual time: encoders that tell of their shards, and the one driver that hears them.

The driver's loop is that of ``rhocache_workers.cluster.actor_pool.Crew.encode``, with the measured
seconds of each of its steps in place of the step. Encoders hold two shards each, tell of the one in
the towers once a second, and wait where the driver is too slow to hand them others.
"""

import heapq
import random
from collections import deque
from dataclasses import dataclass

PROGRESS_SECONDS = 1.0
SEGMENT_SHARDS = 500
HELD = 2  # shards that an encoder has


@dataclass(frozen=True, slots=True)
class Costs:
    """Of the driver, in seconds of its one thread."""

    wait: float  # for each ref that a wait is for
    event: float  # to hear that a shard comes along
    shard: float  # to hand a shard out, to hear of its end and to note it
    member: float  # of a look at who needs a shard, for each encoder
    progress: float  # to write progress.json, the storage's answers included
    segment: float  # to write the notes of SEGMENT_SHARDS shards, likewise


@dataclass(frozen=True, slots=True)
class Result:
    seconds: float  # of the job
    busy: float  # share of them that the driver was at work
    encoding: float  # share of the encoders' time
    late: float  # seconds that the end of a shard waited for the driver, 99 of 100 at most


class _Encoders:
    """Events are (when, encoder, whether a shard has ended)."""

    def __init__(self, workers: int, seconds: float) -> None:
        self._seconds = seconds
        self._random = random.Random(0)
        self.events: list[tuple[float, int, bool]] = []
        self._held = [0] * workers
        self._ends = [0.0] * workers  # when the shard in the towers does
        self.worked = 0.0

    def give(self, encoder: int, now: float) -> None:
        self._held[encoder] += 1
        if self._held[encoder] == 1:
            self._begin(encoder, now)

    def _begin(self, encoder: int, now: float) -> None:
        took = self._seconds * self._random.uniform(0.8, 1.2)
        self.worked += took
        self._ends[encoder] = now + took
        self._tell(encoder, now)

    def _tell(self, encoder: int, now: float) -> None:
        when = min(now + 1.0, self._ends[encoder])
        heapq.heappush(self.events, (when, encoder, when == self._ends[encoder]))

    def go_on(self, encoder: int, when: float, *, ended: bool) -> None:
        """What an encoder does once it has told something, whether or not it is heard."""
        if not ended:
            self._tell(encoder, when)
            return
        self._held[encoder] -= 1
        if self._held[encoder]:
            self._begin(encoder, when)


def simulate(
    shards: int, workers: int, seconds: float, costs: Costs, *, at_once: bool = True
) -> Result:
    """Run a job of ``shards`` that take an encoder so many ``seconds`` each.

    Without ``at_once`` each wait brings one event, as it was before.
    """
    encoders = _Encoders(workers, seconds)
    needy, heard = deque(list(range(workers)) * HELD), deque[tuple[float, int, bool]]()
    waiting = left = shards
    now = idle = told = 0.0
    noted, lates = 0, list[float]()
    while left:
        now += workers * costs.member
        while needy and waiting:
            encoders.give(needy.popleft(), now)
            waiting -= 1
        now += min(left, HELD * workers) * costs.wait
        if not heard and encoders.events[0][0] > now:
            idle += encoders.events[0][0] - now
            now = encoders.events[0][0]
        while encoders.events and encoders.events[0][0] <= now:
            event = heapq.heappop(encoders.events)
            encoders.go_on(event[1], event[0], ended=event[2])
            heard.append(event)
        for _ in range(len(heard) if at_once else 1):
            when, encoder, ended = heard.popleft()
            now += costs.shard if ended else costs.event
            if ended:
                lates.append(now - when)
                needy.append(encoder)
                left -= 1
                noted += 1
                if noted % SEGMENT_SHARDS == 0:
                    now += costs.segment
            if now - told >= PROGRESS_SECONDS:
                now += costs.progress
                told = now
    lates.sort()
    busy, encoding = 1 - idle / now, encoders.worked / (now * workers)
    return Result(now, busy, encoding, lates[int(len(lates) * 0.99)])
