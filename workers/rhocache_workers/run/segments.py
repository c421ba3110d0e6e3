"""Notes of committed shards that a run writes as it goes, so that the next need not read them.

Each file of ``segments/`` has rows as the index has them, with the failed pairs by code. It is
advisory: a shard that none names is read, and the commit makes the index and lets them go.
"""

# pyarrow's stubs leave the parameters of its generic types open.
# pyright: reportUnknownMemberType=false

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.index import SCHEMA, record, row_of, summary_of
from rhocache_schemas.cache.listing import segment_files
from rhocache_schemas.errors import StorageError
from rhocache_workers.messages import CommittedShard

# Of what ends between two writes a run that is killed leaves the next to read.
_SHARDS = 500
_SECONDS = 30.0
_READERS = 16  # threads; an object store answers each of them only after a while

_SCHEMA = SCHEMA.append(pa.field("failed_by_code", pa.string()))  # JSON
_FINGERPRINT = b"rhocache.fingerprint_sha256"


def read_segments(cache: str, fingerprint_sha256: str) -> dict[str, CommittedShard]:
    """Return the shards, by name, that earlier runs with this reference have noted.

    What can't be read is passed over. Raises StorageError where they can't be listed.
    """

    def read(uri: str) -> list[CommittedShard]:
        try:
            return _decode(storage.read_bytes(uri), fingerprint_sha256)
        except (StorageError, pa.ArrowException, OSError, KeyError, TypeError, ValueError):
            return []

    with ThreadPoolExecutor(_READERS) as pool:
        read_all = pool.map(read, segment_files(cache).values())
        return {shard.index.name: shard for shards in read_all for shard in shards}


class Segments:
    """The notes of one run, which alone may write them: ``confirm`` raises where it may not."""

    def __init__(self, cache: str, fingerprint_sha256: str, confirm: Callable[[], None]) -> None:
        self._cache = cache
        self._fingerprint = fingerprint_sha256
        self._confirm = confirm
        self._next = 0  # number of the next file
        self._shards: list[CommittedShard] = []  # that no file has yet
        self._since = time.monotonic()  # the last try to write
        self._tried = 0  # how many there were then, if it failed

    def begin(self, kept: Iterable[CommittedShard], indexed: Collection[str]) -> None:
        """Note what stays, but for what the index has, in one file in place of all that there are.

        A shard that will be written again must not be named by any: its note would be a lie.

        Raises StorageError where they can't be replaced, and CacheBusy.
        """
        before = segment_files(self._cache)
        self._next = max(before, default=-1) + 1
        self._shards = [shard for shard in kept if shard.index.name not in indexed]
        if self._shards:
            self._write()
        if before:
            self._confirm()
        for uri in before.values():
            storage.delete(uri)

    def add(self, shard: CommittedShard) -> None:
        """Note a shard, with the next file."""
        self._shards.append(shard)
        many = len(self._shards) - self._tried >= _SHARDS
        if many or time.monotonic() - self._since >= _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what no file has yet; that it can't be written just now stops no run."""
        if self._shards:
            self._since, self._tried = time.monotonic(), len(self._shards)
            with suppress(StorageError):
                self._write()

    def _write(self) -> None:
        self._confirm()
        uri = layout.segment_file(self._cache, self._next)
        storage.write_atomic(uri, _encode(self._shards, self._fingerprint))
        self._next += 1
        self._shards, self._tried = [], 0


def clear_segments(cache: str) -> None:
    """Let all go, once the index has what they say."""
    for uri in segment_files(cache).values():
        storage.delete(uri)


def _encode(shards: Iterable[CommittedShard], fingerprint_sha256: str) -> bytes:
    rows = [
        record(shard.index, shard.summary) | {"failed_by_code": json.dumps(shard.failed_by_code)}
        for shard in shards
    ]
    schema = _SCHEMA.with_metadata({_FINGERPRINT: fingerprint_sha256})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink)
    return sink.getvalue().to_pybytes()


def _decode(data: bytes, fingerprint_sha256: str) -> list[CommittedShard]:
    table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    if (table.schema.metadata or {})[_FINGERPRINT].decode() != fingerprint_sha256:
        return []
    rows: list[dict[str, Any]] = table.cast(_SCHEMA).to_pylist()
    return [
        CommittedShard(
            row_of(row), Counter[str](json.loads(row["failed_by_code"])), summary_of(row)
        )
        for row in rows
    ]
