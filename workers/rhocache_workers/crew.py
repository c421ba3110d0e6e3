"""The encoders of one run: Ray actors that each hold a reference and pull shards."""

import math
import socket
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any, Self

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from rhocache_schemas.dataset import Shard
from rhocache_schemas.errors import JobError, ShardError, ShardErrorCode
from rhocache_schemas.job import JobSpec
from rhocache_workers.actor import SHARDS_AT_A_TIME, EncoderActor
from rhocache_workers.messages import Description, UnderWay
from rhocache_workers.settled import SettledShard

_DEATHS = (RayActorError, NodeDiedError, ObjectLostError, OutOfMemoryError)
_ANSWER_SECONDS = 10.0
ATTEMPTS = 3  # at a shard, or at loading the reference, before a dying encoder counts as its fault


class Crew:
    """A context manager around the actors, and around Ray where it was not running yet.

    Raises JobError when Ray can't be started or joined, or breaks down.
    """

    def __init__(self, spec: JobSpec, ray_address: str | None, batch_sizes: dict[str, int]) -> None:
        self._spec = spec
        self._batch_sizes = batch_sizes  # what ``auto`` means, by device, where that is known
        self._address = ray_address
        self._description: Description | None = None
        self._deaths = 0  # of encoders that were loading
        self._loading: dict[Any, Any] = {}  # ref -> actor
        self._working: dict[Any, tuple[Any, Shard]] = {}  # generator of refs -> actor and shard
        self._isolating: dict[Any, Any] = {}  # generator of refs -> actor that does it alone
        self._ready: list[Any] = []  # actors that have loaded
        self._waiting: deque[Shard] = deque()
        # Shards whose encoder died: each is tried again by itself, its images decoded apart.
        self._alone: deque[Shard] = deque()

    def __enter__(self) -> Self:
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            _start_ray(self._address)
        self._size, self._options, self._threads = _shares(self._spec.workers)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        for actor in (*self._loading.values(), *self._ready):
            ray.kill(actor)
        if self._owns_ray:
            ray.shutdown()
        if isinstance(error, RayError):
            raise JobError(f"Ray broke down: {_one_line(error)}") from error

    def describe(self) -> Description:
        """Load one encoder and tell what it holds.

        Raises ReferenceUnavailable.
        """
        self._hire()
        while self._description is None:
            (ref,), _ = ray.wait(list(self._loading))
            self._loaded(ref)
        return self._description

    def encode(self, shards: Iterable[Shard]) -> Iterator[UnderWay | SettledShard | ShardError]:
        """Give how each shard comes along, and in the end its outcome.

        Raises StorageError when the cache can't be written, JobError when encoders die whatever
        they do, or hold different references.
        """
        self._waiting = deque(shards)
        attempts: Counter[str] = Counter()
        for _ in range(min(self._size, len(self._waiting)) - 1):
            self._hire()
        while self._waiting or self._alone or self._working:
            self._hand_out()
            waits: list[Any] = [*self._working, *self._loading]
            ready: Any = ray.wait(waits, fetch_local=False)[0][0]
            if ready in self._loading:
                self._loaded(ready)
                continue
            actor, _ = self._working[ready]
            try:
                outcome = _result(next(ready))
            except _DEATHS as error:
                for lost in self._bury(actor):
                    attempts[lost.name] += 1
                    if attempts[lost.name] < ATTEMPTS:
                        self._alone.append(lost)
                        yield UnderWay(lost.name, 0)
                    else:
                        yield _deadly(lost, error)
                continue
            if not isinstance(outcome, UnderWay):
                del self._working[ready]
                self._isolating.pop(ready, None)
            yield outcome

    def _hand_out(self) -> None:
        """Keep every encoder busy, with a second shard to read where all have a first."""
        for most in range(SHARDS_AT_A_TIME):
            for actor in self._ready:
                held = sum(holder is actor for holder, _ in self._working.values())
                if held != most or actor in self._isolating.values():
                    continue
                if held == 0 and self._alone:
                    ref = self._start(actor, self._alone.popleft(), isolate=True)
                    self._isolating[ref] = actor
                elif self._waiting and (held == 0 or len(self._waiting) >= self._size):
                    self._start(actor, self._waiting.popleft(), isolate=False)

    def _start(self, actor: Any, shard: Shard, *, isolate: bool) -> Any:
        method = actor.encode.options(num_returns="streaming")
        ref = method.remote(shard, isolate=isolate)
        self._working[ref] = (actor, shard)
        return ref

    def _bury(self, actor: Any) -> list[Shard]:
        """Replace an encoder; give the shards that it had."""
        lost = [ref for ref, (holder, _) in self._working.items() if holder is actor]
        ray.kill(actor)  # it may only have been out of reach
        self._ready.remove(actor)
        self._hire()
        for ref in lost:
            self._isolating.pop(ref, None)
        return [self._working.pop(ref)[1] for ref in lost]

    def _hire(self) -> None:
        encoder: Any = ray.remote(EncoderActor)
        options = {**self._options, "max_concurrency": SHARDS_AT_A_TIME}
        actor = encoder.options(**options).remote(self._spec, self._threads)
        self._loading[actor.load.remote(self._batch_sizes)] = actor

    def _loaded(self, ref: Any) -> None:
        actor = self._loading.pop(ref)
        try:
            description: Description = _result(ref)
        except _DEATHS as error:
            self._deaths += 1
            if self._deaths >= ATTEMPTS:
                raise JobError(
                    f"encoders die while they load the reference: {_one_line(error)}"
                ) from error
            self._hire()
            return
        if self._description is None:
            self._description = description
            self._batch_sizes = {description.device: description.batch_size}
        elif description.fingerprint.digest != self._description.fingerprint.digest:
            raise JobError(
                f"two encoders hold different references: the files of {self._spec.reference.model}"
                " or their software differ between the cluster's nodes"
            )
        self._ready.append(actor)


def _start_ray(address: str | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            _check_answers(address)
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        where = f"join Ray at {address}" if address else "start Ray"
        raise JobError(f"cannot {where}: {_one_line(error)}") from error


def _check_answers(address: str) -> None:
    """Ray itself tries for minutes to reach an address where nothing listens."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()


def _shares(workers: int | None) -> tuple[int, dict[str, Any], int]:
    """How many encoders, their Ray options, and the threads of each.

    Workers x threads = cores: more threads than cores only wait for one another.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(node.get("GPU", 0.0) for node in alive)
    cores = [node["CPU"] for node in alive if node.get("CPU") and (node.get("GPU") or not gpus)]
    if not cores:
        raise JobError("no node of the Ray cluster has a core to give")
    count = workers or int(gpus) or len(cores)
    share = min(cores) / math.ceil(count / len(cores))
    # Ray counts in steps of 1e-4 and rounds up, so a third of a core would not fit three times.
    options: dict[str, Any] = {"num_cpus": int(share) or math.floor(share * 1e4) / 1e4}
    if gpus:
        options["num_gpus"] = min(1.0, math.floor(gpus / count * 1e4) / 1e4)
    return count, options, max(1, int(share))


def _result(ref: Any) -> Any:
    """The value of a finished call, or the error that the actor raised, as itself."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from None


def _deadly(shard: Shard, error: RayError) -> ShardError:
    out_of_memory = isinstance(error, OutOfMemoryError)
    code = ShardErrorCode.OUT_OF_MEMORY if out_of_memory else ShardErrorCode.ENCODER_DIED
    detail = f"its encoder died {ATTEMPTS} times: {_one_line(error)}"
    return ShardError(code, shard.name, detail)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
