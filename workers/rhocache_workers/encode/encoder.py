"""The encoder: holds references and turns dataset shards into shard files."""

import os
import platform
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import tee
from operator import itemgetter

import torch
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from rhocache_schemas.dataset.formats import read_shard
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import ShardError, ShardErrorCode
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.encode.decode import Decoder, IsolatedDecoder, ThreadDecoder
from rhocache_workers.encode.held import Filling, Held
from rhocache_workers.encode.prefetch import ReadAhead
from rhocache_workers.encode.remote_decode import ClusterDecoder, helpers_to_feed
from rhocache_workers.encode.reuse import Reused
from rhocache_workers.encode.shard import Preparation
from rhocache_workers.encode.together import Once, OwnPictures, in_step
from rhocache_workers.encode.viewer import SharedViewer
from rhocache_workers.messages import BatchSizes, CommittedShard, Description, ShardInProgress
from rhocache_workers.stage_times import Stages

READ_ATTEMPTS = 3
_READ_BYTES = 8 << 20  # at once: an object store allows so many requests a second


class Encoder:
    """Works in an actor, to which the driver gives a share of the cores or a GPU."""

    def __init__(self, spec: ScoreSpec, threads: int) -> None:
        self._spec = spec
        self._threads = threads
        self._turn = threading.Lock()  # to use the towers, for as long as a shard takes
        self._last_turn: float | None = None  # when it ended

    def load(self, batch_sizes: BatchSizes) -> Iterator[str | Description]:
        """Load the references, telling each step; the last value says what was loaded.

        Apart from the constructor, so that its errors come as themselves. ``batch_sizes`` are what
        ``auto`` is known to mean already.
        """
        torch.set_num_threads(self._threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._held: list[Held] = []
        for spec in self._spec.each:
            yield "loading the reference"
            held = Held(spec, device)
            known = batch_sizes.get(spec.output, {}).get(device)
            size = known if spec.batch_size == "auto" else spec.batch_size
            yield "choosing the batch size" if size is None else "warming up"
            held.calibrate(size)
            self._held.append(held)
        self._viewer = SharedViewer({each.way: each.viewer for each in self._held})
        self._decoder = self._make_decoder(device)
        own, *others = [each.describe() for each in self._held]
        yield replace(own, also=tuple(others))

    def encode(
        self,
        shard: Shard,
        *,
        isolate: bool = False,
        reused: Reused | None = None,
        into: Sequence[int] | None = None,
    ) -> Iterator[ShardInProgress | CommittedShard | ShardError]:
        """Embed a shard and write its files, telling after each batch how far it is.

        The last value is the outcome: a shard that can't be read is an answer, not a crash.
        Pairs that are found among what is ``reused`` are not embedded. ``isolate`` decodes in a
        process apart, for a shard whose encoder died. ``into`` numbers those of the job's
        references whose caches lack the shard, where not all do.

        Raises StorageError when a file can't be written.
        """
        held = self._held if into is None else [self._held[number] for number in into]
        prepared = [(each, each.preparation(isolate=isolate)) for each in held]
        try:
            with ExitStack() as stack:
                decoder: Decoder = (
                    stack.enter_context(IsolatedDecoder(self._viewer)) if isolate else self._decoder
                )
                stages = Stages(decoder.decoders)
                for attempt in _attempts():
                    with attempt:
                        yield from self._encode(shard, prepared, decoder, stages, reused)
        except (ShardError, MemoryError, torch.OutOfMemoryError) as error:
            for _, preparation in prepared:
                preparation.forget()
            out_of_memory = ShardError(ShardErrorCode.OUT_OF_MEMORY, shard.name, str(error))
            yield error if isinstance(error, ShardError) else out_of_memory

    def _encode(
        self,
        shard: Shard,
        prepared: list[tuple[Held, Preparation]],
        decoder: Decoder,
        stages: Stages,
        reused: Reused | None,
    ) -> Iterator[ShardInProgress | CommittedShard]:
        reader, once = read_shard(shard, self._spec.source, _READ_BYTES), Once(decoder)
        fillings = [
            Filling(
                held,
                preparation,
                shard,
                OwnPictures(once, partial(self._viewer.own, held.way)),
                stages,
            )
            for held, preparation in prepared
        ]
        n = len(fillings)
        parts = zip(fillings, tee(reader, n), strict=True)
        rows = zip(*(filling.rows(pairs, reused) for filling, pairs in parts), strict=True)
        most = max(held.towers.batch_size for held, _ in prepared)
        with ExitStack() as stack:
            for filling in fillings:
                stack.enter_context(filling)
            ahead = max(1, 2 * most // self._spec.views.count)
            columns = enumerate(tee(stack.enter_context(ReadAhead(rows, ahead)), n))
            works = [
                fillings[number].encode(map(itemgetter(number), column))
                for number, column in columns
            ]
            with self._towers_turn(stages):
                for pairs in in_step(works):
                    yield ShardInProgress(shard.name, pairs)
            if reader.sha256 is None:
                raise RuntimeError("the reader stopped before the end of the shard")
            with stages.busy("write"):
                # The job's own cache last: what has its file there has all.
                done = [filling.commit(reader.sha256) for filling in reversed(fillings)]
        me = f"{platform.node()}:{os.getpid()}"
        own, *others = reversed(done)
        yield replace(own, stages=stages, encoder=me, also=tuple(others))

    def _make_decoder(self, device: str) -> Decoder:
        viewer, threads = self._viewer, self._threads
        helpers = self._spec.remote_decoders or 0
        if self._spec.remote_decoders is None and device == "cuda":
            seconds = sum(1 / each.images_per_second for each in self._held)
            helpers = helpers_to_feed(viewer, 1 / seconds, threads)
        if helpers:
            return ClusterDecoder(viewer, threads, helpers)
        return ThreadDecoder(viewer, threads)

    @contextmanager
    def _towers_turn(self, stages: Stages) -> Generator[None]:
        with self._turn:
            since = self._last_turn or time.perf_counter()
            try:
                yield
            finally:
                self._last_turn = time.perf_counter()
                stages.elapsed = self._last_turn - since


def _attempts() -> Retrying:
    """Read a shard again, from its start, when the storage failed half-way."""
    return Retrying(
        retry=retry_if_exception(
            lambda error: isinstance(error, ShardError) and error.code == ShardErrorCode.IO_ERROR
        ),
        wait=wait_random_exponential(max=10),
        stop=stop_after_attempt(READ_ATTEMPTS),
        reraise=True,
    )
