"""The encoders of one run: Ray actors that each hold a reference and pull shards."""

import os
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, Self

# Before ray is imported: it reads these once.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import RayActorError, RayTaskError

from rhocache_schemas.dataset import Shard
from rhocache_schemas.errors import JobError, ShardError, ShardErrorCode
from rhocache_schemas.job import JobSpec
from rhocache_workers.encoder import Description, Encoder
from rhocache_workers.settled import SettledShard

ATTEMPTS = 3  # at a shard, or at starting encoders, before a crash counts as its fault


class Crew:
    """A context manager around the actors, and around Ray where it was not running yet."""

    def __init__(self, spec: JobSpec, ray_address: str | None) -> None:
        self._spec = spec
        self._address = ray_address
        self._description: Description | None = None
        self._crashes = 0

    def __enter__(self) -> Self:
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            _start_ray(self._address)
        self._size, self._options, self._threads = _shares(self._spec.workers)
        self._loading: dict[Any, Any] = {}  # ref -> actor
        self._idle: list[Any] = []
        for _ in range(self._size):
            self._hire()
        return self

    def __exit__(self, *_: object) -> None:
        for actor in [*self._loading.values(), *self._idle]:
            ray.kill(actor)
        if self._owns_ray:
            ray.shutdown()

    def first_description(self) -> Description:
        """Wait until one encoder is ready; tell what it holds.

        Raises ReferenceUnavailable.
        """
        while self._description is None:
            ready, _ = ray.wait(list(self._loading))
            self._loaded(ready[0])
        return self._description

    def encode(
        self, waiting: deque[Shard], fingerprint_sha256: str
    ) -> Iterator[SettledShard | ShardError]:
        """Give each shard's outcome as it comes.

        Raises StorageError when the cache can't be written, JobError when encoders crash whatever
        they do, or hold different references.
        """
        working: dict[Any, tuple[Any, Shard]] = {}
        attempts: Counter[str] = Counter()
        try:
            while waiting or working:
                while waiting and self._idle:
                    actor, shard = self._idle.pop(), waiting.popleft()
                    working[actor.encode.remote(shard, fingerprint_sha256)] = (actor, shard)
                ready, _ = ray.wait([*working, *self._loading])
                ref = ready[0]
                if ref in self._loading:
                    self._loaded(ref)
                    continue
                actor, shard = working.pop(ref)
                try:
                    yield _result(ref)
                    self._idle.append(actor)
                except RayActorError as error:
                    self._hire()
                    attempts[shard.name] += 1
                    if attempts[shard.name] < ATTEMPTS:
                        waiting.append(shard)
                    else:
                        yield _crashed(shard, error)
        finally:
            for actor, _ in working.values():
                ray.kill(actor)

    def _hire(self) -> None:
        encoder: Any = ray.remote(Encoder)
        actor = encoder.options(**self._options).remote(self._spec, self._threads)
        self._loading[actor.load.remote()] = actor

    def _loaded(self, ref: Any) -> None:
        actor = self._loading.pop(ref)
        try:
            description: Description = _result(ref)
        except RayActorError as error:
            self._crashes += 1
            if self._crashes >= ATTEMPTS:
                raise JobError(f"encoders die while they load the reference: {error}") from error
            self._hire()
            return
        if self._description is None:
            self._description = description
        elif description.fingerprint.digest != self._description.fingerprint.digest:
            raise JobError(
                "two encoders hold different references: the files of "
                f"{self._spec.reference.model} or their software differ between the cluster's nodes"
            )
        self._idle.append(actor)


def _start_ray(address: str | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"join Ray at {address}" if address else "start Ray"
        raise JobError(f"cannot {where}: {' '.join(str(error).split())[:300]}") from error


def _shares(workers: int | None) -> tuple[int, dict[str, Any], int]:
    """How many encoders, their Ray options, and the threads of each.

    Workers x threads = cores: more threads than cores only wait for one another.
    """
    resources = ray.cluster_resources()
    cores, gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    count = workers or int(gpus) or max(1, len(nodes))
    share = cores / count
    options: dict[str, Any] = {"num_cpus": int(share) if share >= 1 else share}
    if gpus:
        options["num_gpus"] = min(1.0, gpus / count)
    return count, options, max(1, int(share))


def _result(ref: Any) -> Any:
    """The value of a finished call, or the error that the actor raised, as itself."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from None


def _crashed(shard: Shard, error: RayActorError) -> ShardError:
    detail = " ".join(str(error).split())[:300]
    return ShardError(
        ShardErrorCode.OUT_OF_MEMORY,
        shard.name,
        f"its encoder died {ATTEMPTS} times, as it does when memory runs out: {detail}",
    )
