"""The encoder: holds a reference and turns dataset shards into shard files."""

import importlib.metadata
import os
import platform
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.shard_file import ShardFileWriter, Totals
from rhocache_schemas.dataset.formats import read_shard
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import ShardError, ShardErrorCode
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.encode.batches import Towers
from rhocache_workers.encode.calibration import calibrate
from rhocache_workers.encode.decode import Decoder, IsolatedDecoder, ThreadDecoder
from rhocache_workers.encode.prefetch import ReadAhead
from rhocache_workers.encode.remote_decode import ClusterDecoder, helpers_to_feed
from rhocache_workers.encode.reuse import Reused
from rhocache_workers.encode.shard import Preparation, encode_shard
from rhocache_workers.encode.viewer import Viewer
from rhocache_workers.messages import CommittedShard, Description, ShardInProgress, committed_shard
from rhocache_workers.reference.model import load_reference
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

    def load(self, batch_sizes: dict[str, int]) -> Iterator[str | Description]:
        """Load the reference, telling each step; the last value says what was loaded.

        Apart from the constructor, so that its errors come as themselves. ``batch_sizes`` are what
        ``auto`` is known to mean already, by device.
        """
        torch.set_num_threads(self._threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        spec = self._spec
        yield "loading the reference"
        reference = self._reference = load_reference(spec.reference, device)
        size = batch_sizes.get(device) if spec.batch_size == "auto" else spec.batch_size
        yield "choosing the batch size" if size is None else "warming up"
        calibration = calibrate(reference, size)
        self._stable = calibration.stable
        self._towers = Towers(reference, calibration.batch_size)
        self._viewer = Viewer(reference.preprocess, spec.views)
        self._decoder = self._make_decoder(calibration.images_per_second)
        self._shared = Preparation(reference, spec.views.count)
        fingerprint = reference.fingerprint(spec.dtype, spec.source, spec.views.recorded)
        self._fingerprint_sha256 = fingerprint.digest
        yield Description(
            fingerprint=fingerprint,
            dimension=reference.dimension,
            logit_scale=reference.logit_scale,
            logit_bias=reference.logit_bias,
            device=device,
            batch_size=calibration.batch_size,
            software={
                name: importlib.metadata.version(name)
                for name in ("rhocache", "torch", "open_clip_torch", "pillow", "pyarrow", "ray")
            },
            warning=reference.warning,
        )

    def encode(
        self, shard: Shard, *, isolate: bool = False, reused: Reused | None = None
    ) -> Iterator[ShardInProgress | CommittedShard | ShardError]:
        """Embed a shard and write its file, telling after each batch how far it is.

        The last value is the outcome: a shard that can't be read is an answer, not a crash.
        Pairs that are found among what is ``reused`` are not embedded. ``isolate`` decodes in a
        process apart, for a shard whose encoder died.

        Raises StorageError when the file can't be written.
        """
        share = self._stable and not isolate
        preparation = (
            self._shared if share else Preparation(self._reference, self._spec.views.count)
        )
        try:
            with ExitStack() as stack:
                decoder: Decoder = (
                    stack.enter_context(IsolatedDecoder(self._viewer)) if isolate else self._decoder
                )
                stages = Stages(decoder.decoders)
                for attempt in _attempts():
                    with attempt:
                        yield from self._encode(shard, preparation, decoder, stages, reused)
        except ShardError as error:
            preparation.forget()
            yield error
        except (MemoryError, torch.OutOfMemoryError) as error:
            preparation.forget()
            yield ShardError(ShardErrorCode.OUT_OF_MEMORY, shard.name, str(error))

    def _encode(
        self,
        shard: Shard,
        preparation: Preparation,
        decoder: Decoder,
        stages: Stages,
        reused: Reused | None,
    ) -> Iterator[ShardInProgress | CommittedShard]:
        spec = self._spec
        reader = read_shard(shard, spec.source, _READ_BYTES)
        ahead = max(1, 2 * self._towers.batch_size // spec.views.count)
        uri = layout.shard_file(spec.output, shard.name)
        with (
            storage.AtomicFile(uri) as file,
            ShardFileWriter(
                file,
                views=spec.views.count,
                captions=spec.source.most_captions,
                dimension=self._reference.dimension,
                dtype=np.dtype(spec.dtype),
            ) as writer,
            ReadAhead(preparation.rows(reader, decoder, stages, shard.most, reused), ahead) as rows,
        ):
            with self._towers_turn(stages):
                for pairs in encode_shard(
                    rows,
                    self._towers,
                    decoder,
                    writer,
                    stages,
                    spec.views.count,
                    spec.source.most_captions,
                ):
                    yield ShardInProgress(shard.name, pairs)
            if reader.sha256 is None:
                raise RuntimeError("the reader stopped before the end of the shard")
            with stages.busy("write"):
                totals: Totals = writer.close(self._fingerprint_sha256, reader.sha256)
                file.commit()
        me = f"{platform.node()}:{os.getpid()}"
        yield committed_shard(shard, totals, reader.sha256, stages, me, writer.reused)

    def _make_decoder(self, images_per_second: float) -> Decoder:
        viewer, threads = self._viewer, self._threads
        helpers = self._spec.remote_decoders or 0
        if self._spec.remote_decoders is None and self._reference.device.type == "cuda":
            helpers = helpers_to_feed(viewer, images_per_second, threads)
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
