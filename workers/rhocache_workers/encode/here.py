"""One encoder in this process, without Ray: for what a machine does in minutes."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import ShardError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.encode.encoder import Encoder
from rhocache_workers.encode.reuse import Reused, Table
from rhocache_workers.messages import BatchSizes, CommittedShard, Description, ShardInProgress


class CrewHere:
    """Does what ``cluster.actor_pool.Crew`` does, but a reference or a pair that kills its process
    ends the run: there is no other process to go on."""

    def __init__(
        self, spec: ScoreSpec, batch_sizes: BatchSizes, on_step: Callable[[str], None]
    ) -> None:
        self._encoder = Encoder(spec, threads=len(os.sched_getaffinity(0)))
        self._batch_sizes = batch_sizes
        self._on_step = on_step
        self._reused: Reused | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def describe(self) -> Description:
        """Load the references. Raises ReferenceUnavailable."""
        for told in self._encoder.load(self._batch_sizes):
            if isinstance(told, Description):
                return told
            self._on_step(told)
        raise AssertionError("an encoder ends by saying what it has loaded")

    def reuse(self, tables: Sequence[Table]) -> None:
        """Take the rows that these caches have of the pairs that are encoded from now on."""
        self._reused = Reused(tables)

    def encode(
        self, shards: Iterable[Shard], into: Sequence[int] | None = None
    ) -> Iterator[ShardInProgress | CommittedShard | ShardError]:
        """Yield how each shard comes along, and its outcome. Raises StorageError.

        ``into`` numbers the job's references that encode them, where not all do.
        """
        for shard in shards:
            yield from self._encoder.encode(shard, reused=self._reused, into=into)
