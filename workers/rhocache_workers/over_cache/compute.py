"""Computes the files of shards, a group of them at a time, in this process or as tasks of Ray's."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import JobError
from rhocache_schemas.table.files import KEYS, TableFile
from rhocache_workers.over_cache.target import Target
from rhocache_workers.run.signals import sigterm_as_interrupt

_GROUPS_A_CORE = 4  # at least, where there are enough pairs: so that all cores end at one time
_AHEAD = 2  # tasks a core that Ray is asked for at a time


class GivesRows(Protocol):
    rows_at_once: ClassVar[int]
    cache: CacheReader

    def rows_of(self, shards: Sequence[str]) -> Iterator[tuple[str, pa.Table]]: ...


class Compute(Protocol):
    """Yields the file of each shard once it is written. Raises RhocacheError."""

    def __call__(
        self, work: GivesRows, shards: Sequence[str], target: Target
    ) -> Iterator[TableFile]: ...


def compute_here(work: GivesRows, shards: Sequence[str], target: Target) -> Iterator[TableFile]:
    with sigterm_as_interrupt():
        for group in _groups(work, shards, 1):
            yield from _write(work, group, target)


class ComputeOnRay:
    """Has Ray's tasks compute, each with a core, and a GPU where the cluster has any.

    Ray is started on this machine, or joined at an address, once there is something to compute, and
    let go afterwards; a task whose process or node dies is done again.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address

    def __call__(
        self, work: GivesRows, shards: Sequence[str], target: Target
    ) -> Iterator[TableFile]:
        import ray
        from ray.exceptions import RayError, RayTaskError

        from rhocache_workers.cluster.start import one_line, start_ray

        with ExitStack() as stack:
            if not ray.is_initialized():
                start_ray(self._address)
                stack.callback(ray.shutdown)
            stack.enter_context(sigterm_as_interrupt())
            resources = ray.cluster_resources()
            cores = max(1, int(resources.get("CPU", 1)))
            gpus = 1 if resources.get("GPU") else 0
            task: Any = ray.remote(_write_all).options(num_cpus=1, num_gpus=gpus)
            shared, groups = ray.put(work), _groups(work, shards, cores)
            waiting = deque(
                task.remote(shared, group, target) for group in islice(groups, _AHEAD * cores)
            )
            try:
                while waiting:
                    (ready,), rest = ray.wait(list(waiting), fetch_local=False)
                    waiting = deque(rest)
                    waiting.extend(
                        task.remote(shared, group, target) for group in islice(groups, 1)
                    )
                    yield from ray.get(ready)
            except RayTaskError as error:
                raise error.cause from None
            except RayError as error:
                raise JobError(f"Ray broke down: {one_line(error)}") from error
            finally:
                for ref in waiting:
                    ray.cancel(ref, force=True)


def _groups(work: GivesRows, shards: Sequence[str], cores: int) -> Iterator[list[str]]:
    """Yield runs of shards of about equal numbers of pairs."""
    index = work.cache.index
    pairs = sum(index[shard].rows for shard in shards)
    most = min(work.rows_at_once, -(-pairs // (_GROUPS_A_CORE * cores)))
    group: list[str] = []
    rows = 0
    for shard in shards:
        if group and rows + index[shard].rows > most:
            yield group
            group, rows = [], 0
        group.append(shard)
        rows += index[shard].rows
    if group:
        yield group


def _write(work: GivesRows, shards: Sequence[str], target: Target) -> Iterator[TableFile]:
    for shard, columns in work.rows_of(shards):
        keys = work.cache.columns(shard, ["key", "row"])
        names = pa.array([shard]).take(pa.array([0] * keys.num_rows, pa.int32()))
        named = pa.Table.from_arrays([names, keys["key"], keys["row"]], schema=KEYS)
        for name in columns.column_names:
            named = named.append_column(columns.field(name), columns[name])
        yield target.write_shard(shard, named)


def _write_all(work: GivesRows, shards: Sequence[str], target: Target) -> list[TableFile]:
    return list(_write(work, shards, target))
