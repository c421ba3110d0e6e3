"""The encoder as a Ray actor."""

import gc
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import ShardError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.threads import wait_briefly
from rhocache_workers.messages import BatchSizes, CommittedShard, Description, ShardInProgress

if TYPE_CHECKING:
    from rhocache_workers.encode.reuse import Reused

SHARDS_AT_A_TIME = 2  # while one is in the towers, the next is being read
SECONDS = 1.0  # between two pieces of news of a shard


class EncoderActor:
    """An Encoder, imported where it works: with torch the driver would take 700 MB more."""

    def __init__(self, spec: ScoreSpec, threads: int) -> None:
        self._spec = spec
        self._threads = threads
        self._reused: Reused | None = None
        self._lock = threading.Lock()

    def load(self, batch_sizes: BatchSizes) -> Iterator[str | Description]:
        wait_briefly()
        gc.disable()  # it would walk all that torch brings many times over
        from rhocache_workers.encode.encoder import Encoder

        gc.freeze()
        gc.enable()
        self._encoder = Encoder(self._spec, self._threads)
        yield from self._encoder.load(batch_sizes)

    def encode(
        self,
        shard: Shard,
        *,
        isolate: bool,
        tables: Any = None,
        into: Sequence[int] | None = None,
    ) -> Iterator[ShardInProgress | CommittedShard | ShardError]:
        """``tables`` is a ref, in a list, to those of the caches to reuse."""
        with self._lock:
            if tables is not None and self._reused is None:
                import ray

                from rhocache_workers.encode.reuse import Reused

                self._reused = Reused(ray.get(tables[0]))  # whose arrays stay in the node's store
        told = 0.0
        events = self._encoder.encode(shard, isolate=isolate, reused=self._reused, into=into)
        for event in events:
            # To hear of every batch would keep the driver of many encoders busy.
            if not isinstance(event, ShardInProgress) or time.monotonic() - told >= SECONDS:
                told = time.monotonic()
                yield event
