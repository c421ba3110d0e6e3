"""A reference that an encoder holds, and the shard files that it fills."""

import importlib.metadata
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Self

import numpy as np

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.shard_file import ShardFileWriter
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.encode.batches import Towers
from rhocache_workers.encode.calibration import calibrate
from rhocache_workers.encode.reuse import Reused
from rhocache_workers.encode.shard import Preparation, Row, encode_shard
from rhocache_workers.encode.together import OwnPictures
from rhocache_workers.encode.viewer import Viewer
from rhocache_workers.messages import CommittedShard, Description, committed_shard
from rhocache_workers.reference.model import load_reference
from rhocache_workers.stage_times import Stages


class Held:
    """The reference of a job that has no other. Raises as ``load_reference`` does."""

    def __init__(self, spec: ScoreSpec, device: str) -> None:
        self.spec = spec
        self.reference = load_reference(spec.reference, device)
        self.viewer = Viewer(self.reference.preprocess, spec.views)
        self.fingerprint = self.reference.fingerprint(spec.dtype, spec.source, spec.views.recorded)
        self.digest = self.fingerprint.digest
        how = sorted(self.fingerprint.preprocessing.items())
        # What its pictures depend on: they are normalised only where they are encoded.
        self.way = repr([(name, value) for name, value in how if name not in ("mean", "std")])
        self._shared = Preparation(self.reference, spec.views.count)

    def calibrate(self, batch_size: int | None) -> None:
        """Choose the batch size, where it is None, and warm up."""
        found = calibrate(self.reference, batch_size)
        self.towers = Towers(self.reference, found.batch_size)
        self.images_per_second = found.images_per_second
        self._batch_size, self._stable = found.batch_size, found.stable

    def preparation(self, *, isolate: bool) -> Preparation:
        """Return that of all shards, or one of its own where they must not share embeddings."""
        share = self._stable and not isolate
        return self._shared if share else Preparation(self.reference, self.spec.views.count)

    def describe(self) -> Description:
        return Description(
            fingerprint=self.fingerprint,
            dimension=self.reference.dimension,
            logit_scale=self.reference.logit_scale,
            logit_bias=self.reference.logit_bias,
            device=self.reference.device.type,
            batch_size=self._batch_size,
            software={
                name: importlib.metadata.version(name)
                for name in ("rhocache", "torch", "open_clip_torch", "pillow", "pyarrow", "ray")
            },
            warning=self.reference.warning,
        )


class Filling:
    """A shard file of one reference, on its way. A context manager, which leaves nothing behind."""

    def __init__(
        self,
        held: Held,
        preparation: Preparation,
        shard: Shard,
        decoder: OwnPictures,
        stages: Stages,
    ) -> None:
        self._held = held
        self._preparation = preparation
        self._shard = shard
        self._decoder = decoder
        self._stages = stages

    def __enter__(self) -> Self:
        spec = self._held.spec
        with ExitStack() as stack:
            uri = layout.shard_file(spec.output, self._shard.name)
            self._file = stack.enter_context(storage.AtomicFile(uri))
            self._writer = stack.enter_context(
                ShardFileWriter(
                    self._file,
                    views=spec.views.count,
                    captions=spec.source.most_captions,
                    dimension=self._held.reference.dimension,
                    dtype=np.dtype(spec.dtype),
                )
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def rows(self, pairs: Iterable[Pair], reused: Reused | None) -> Iterator[Row]:
        return self._preparation.rows(pairs, self._decoder, self._stages, self._shard.most, reused)

    def encode(self, rows: Iterable[Row]) -> Generator[int]:
        """Embed the rows and write them; yield the pairs seen so far."""
        yield from encode_shard(
            rows,
            self._held.towers,
            self._decoder,
            self._writer,
            self._stages,
            self._held.spec.views.count,
            self._held.spec.source.most_captions,
        )

    def commit(self, source_sha256: str) -> CommittedShard:
        totals = self._writer.close(self._held.digest, source_sha256)
        self._file.commit()
        return committed_shard(self._shard, totals, source_sha256, reused=self._writer.reused)
