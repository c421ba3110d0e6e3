"""The Ray actor that holds a reference and embeds one shard at a time."""

import importlib.metadata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from rhocache_schemas import layout, shard_file, storage
from rhocache_schemas.dataset import Shard
from rhocache_schemas.errors import ShardError, ShardErrorCode
from rhocache_schemas.fingerprint import Fingerprint
from rhocache_schemas.job import JobSpec
from rhocache_workers.encode import UnderWay, encode_shard
from rhocache_workers.reference import load_reference
from rhocache_workers.settled import SettledShard, settle

BATCH_SIZE = {"cpu": 32, "cuda": 256}  # what ``auto`` means


@dataclass(frozen=True, slots=True)
class Description:
    """What an encoder holds. Encoders of one run must hold the same."""

    fingerprint: Fingerprint
    dimension: int
    logit_scale: float
    logit_bias: float | None
    batch_size: int
    software: dict[str, str]  # package -> version


class Encoder:
    """Made an actor by the driver, which gives it its share of the cores or a GPU."""

    def __init__(self, spec: JobSpec, threads: int) -> None:
        self._spec = spec
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def load(self) -> Description:
        """Load the reference. Apart from the constructor, so that its errors come as themselves."""
        torch.set_num_threads(self._threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        spec = self._spec
        self._reference = load_reference(spec.reference, device)
        size = spec.batch_size
        self._batch_size = BATCH_SIZE[device] if size == "auto" else size
        fingerprint = self._reference.fingerprint(spec.dtype, spec.caption_field)
        self._fingerprint_sha256 = fingerprint.digest
        return Description(
            fingerprint=fingerprint,
            dimension=int(self._reference.architecture["embed_dim"]),
            logit_scale=self._reference.logit_scale,
            logit_bias=self._reference.logit_bias,
            batch_size=self._batch_size,
            software={
                name: importlib.metadata.version(name)
                for name in ("rhocache", "torch", "open_clip_torch", "pillow", "pyarrow", "ray")
            },
        )

    def encode(self, shard: Shard) -> Iterator[UnderWay | SettledShard | ShardError]:
        """Embed a shard and write its file, telling after each batch how far it is.

        The last value is the outcome: a shard that can't be read is an answer, not a crash.

        Raises StorageError when the file can't be written.
        """
        spec = self._spec
        try:
            rows, source_sha256 = yield from encode_shard(
                self._reference,
                shard,
                caption_field=spec.caption_field,
                dtype=spec.dtype,
                batch_size=self._batch_size,
                pool=self._pool,
            )
        except ShardError as error:
            yield error
            return
        except (MemoryError, torch.OutOfMemoryError) as error:
            yield ShardError(ShardErrorCode.OUT_OF_MEMORY, shard.name, str(error))
            return
        data = shard_file.encode(rows, self._fingerprint_sha256, source_sha256)
        storage.write_atomic(layout.shard_file(spec.output, shard.name), data)
        yield settle(shard, data, rows, source_sha256)
