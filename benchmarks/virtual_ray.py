"""A Ray whose nodes come and go on a clock of its own, for the driver's own scheduling on it.

``VirtualRay.install`` puts it in Ray's place where ``Crew`` and ``Places`` ask Ray or the clock, so
that a day passes in the time that they take to hand out its shards. Encoders embed nothing.
"""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ray.exceptions import ActorDiedError

from rhocache_schemas.cache.index import IndexRow
from rhocache_schemas.dataset.shards import Shard
from rhocache_workers.cluster import actor_pool, members, placement
from rhocache_workers.cluster.nodes import Leaving
from rhocache_workers.messages import CommittedShard, Description, ShardInProgress
from tests.caches import FINGERPRINT

HOME = "home"  # the node of the driver
TOLD = (0.02, 0.25, 0.5, 0.75)  # parts of a shard after which an encoder tells how far it is


@dataclass(frozen=True, slots=True)
class Fleet:
    nodes: int
    life: float  # seconds of a node until it is to go, their mean
    grace: float  # seconds from then until it is gone
    absence: float  # seconds from then until another is there
    loading: float  # seconds until an encoder can encode
    rate: float  # pairs a second, of an encoder
    spread: float  # of it from shard to shard, its standard deviation


class Stream(deque[Any]):
    """What an actor has answered so far: the values of a call, or an error."""

    __hash__ = object.__hash__  # pyright: ignore
    __eq__ = object.__eq__
    __next__ = deque.popleft


class Actor:
    def __init__(self, world: "VirtualRay", node: str | None) -> None:
        self._world, self._node = world, node
        self._held: deque[tuple[Stream, Shard]] = deque()  # the first is being encoded
        self._loads: list[Stream] = []
        self._since, self._seconds = 0.0, 0.0  # of the first: when it was begun, and what it takes
        self.alive = node in world.living
        self.load = SimpleNamespace(remote=self._load)
        self.encode = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._encode))
        self.__ray_ready__ = SimpleNamespace(remote=Stream)
        if node in world.living:
            world.living[node].append(self)

    def _load(self, _: dict[str, int]) -> Stream:
        stream = self._call()
        self._loads.append(stream)
        told = Description(FINGERPRINT, 1, 1.0, None, "cpu", 1, {})
        self._world.after(self._world.fleet.loading, lambda: self._tell(stream, told))
        return stream

    def _encode(self, shard: Shard, *, isolate: bool) -> Stream:  # noqa: ARG002
        stream = self._call()
        self._held.append((stream, shard))
        if len(self._held) == 1:
            self._begin()
        return stream

    def _call(self) -> Stream:
        stream = Stream()
        if self._node is not None and not self.alive:
            self._world.answer(stream, ActorDiedError())
        return stream

    def _begin(self) -> None:
        stream, shard = self._held[0]
        world = self._world
        usual = shard.size / world.fleet.rate
        self._since, self._seconds = (
            world.now,
            usual * world.random.lognormvariate(0, world.fleet.spread),
        )
        for part in TOLD:
            told = ShardInProgress(shard.name, int(part * shard.size))
            world.after(part * self._seconds, lambda told=told: self._tell(stream, told))
        world.after(self._seconds, self._commit)

    def _commit(self) -> None:
        if not self.alive:
            return
        stream, shard = self._held.popleft()
        row = IndexRow(shard.name, shard.size, shard.size, 0, 1, shard.size, 0, "", "", "")
        self._tell(stream, CommittedShard(row, Counter()))
        self._world.committed[shard.name] = shard.size
        self._world.encoded += shard.size
        if self._held:
            self._begin()

    def _tell(self, stream: Stream, value: object) -> None:
        if self.alive:
            self._world.answer(stream, value)

    def end(self) -> None:
        """What is encoded of a shard is lost."""
        if self.alive and self._held:
            part = (self._world.now - self._since) / self._seconds
            self._world.encoded += part * self._held[0][1].size
        self.alive = False
        for stream in (*self._loads, *(stream for stream, _ in self._held)):
            self._world.answer(stream, ActorDiedError())


class VirtualRay:
    """The module ``ray``, the module ``time``, and a fleet whose nodes are replaced."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet = fleet
        self.random = random.Random(seed)
        self.now = 0.0
        self.living: dict[str, list[Actor]] = {}  # nodes, and their actors
        self.preempted = 0
        self.encoded = 0.0  # pairs, in vain or not
        self.committed: dict[str, int] = {}  # pairs, by shard
        self._leaving: dict[str, Leaving] = {}
        self._answered: dict[Stream, None] = {}  # those that have something new
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        for _ in range(fleet.nodes):
            self._join()

    def install(self) -> None:
        for module in (actor_pool, placement):
            module.ray = self  # pyright: ignore
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now, sleep=self._pass)
        for module in (actor_pool, members):
            module.time = clock  # pyright: ignore
        actor_pool.log.disabled = True  # a line a node
        placement.leaving_nodes = lambda _: dict(self._leaving)

    def after(self, seconds: float, then: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, then))

    def answer(self, stream: Stream, value: object) -> None:
        stream.append(value)
        self._answered[stream] = None

    def _join(self) -> None:
        self._count += 1
        name = f"{self._count:056x}"  # as Ray's ids are
        self.living[name] = []
        self.after(self.random.expovariate(1 / self.fleet.life), lambda: self._notice(name))

    def _notice(self, name: str) -> None:
        self.preempted += 1
        if self.fleet.grace:
            self._leaving[name] = Leaving(name, self.now + self.fleet.grace)
        self.after(self.fleet.grace, lambda: self._leave(name))
        self.after(self.fleet.absence, self._join)

    def _leave(self, name: str) -> None:
        self._leaving.pop(name, None)
        for actor in self.living.pop(name):
            actor.end()

    def _pass(self, seconds: float) -> None:
        """Let time pass until something happens, or so many seconds."""
        until = self.now + seconds
        if self._events and self._events[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
        else:
            self.now = until

    # As the module has them.

    def is_initialized(self) -> bool:
        return True

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: HOME)

    def nodes(self) -> list[dict[str, Any]]:
        cores = {HOME: 0} | dict.fromkeys(self.living, 1)
        return [
            {"NodeID": node, "Alive": True, "Resources": {"CPU": count}}
            for node, count in cores.items()
        ]

    def remote(self, _: type) -> Any:
        def options(scheduling_strategy: Any = None, **_: Any) -> Any:
            node = scheduling_strategy and scheduling_strategy.node_id
            return SimpleNamespace(remote=lambda *_: Actor(self, node))

        return SimpleNamespace(options=options)

    def wait(
        self, streams: Collection[Stream], timeout: float, **_: object
    ) -> tuple[list[Stream], list[Stream]]:
        until, waits = self.now + timeout, set(streams)
        while True:
            for stream in [*self._answered]:
                if stream in waits and stream:
                    return [stream], []
                if timeout:  # with none, one is asked for by itself
                    del self._answered[stream]  # it was heard, or given up
            if self.now >= until:
                return [], []
            self._pass(until - self.now)

    def get(self, value: object) -> object:
        if isinstance(value, Exception):
            raise value
        return value

    def kill(self, actor: Actor) -> None:
        actor.end()
