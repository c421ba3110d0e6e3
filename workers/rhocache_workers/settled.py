"""Shards that are done: their lines in the index, and what their rows came to."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas import index, layout, shard_file, storage
from rhocache_schemas.dataset import Shard
from rhocache_schemas.errors import (
    CacheCorrupt,
    InvalidDocument,
    RowErrorCode,
    StorageError,
    UnsupportedVersion,
)
from rhocache_schemas.index import IndexRow
from rhocache_schemas.listing import shard_files
from rhocache_schemas.records import Manifest
from rhocache_schemas.shard_file import OK, Totals
from rhocache_workers.stages import Stages

_READERS = 16  # threads; an object store answers each of them only after a while
_BATCH = 1024  # shards that wait for a reader: each takes more memory than what is found
_READ_BYTES = 128 << 20  # that they hold together, of shard files


@dataclass(frozen=True, slots=True)
class SettledShard:
    index: IndexRow
    failed_by_code: Counter[str]
    stages: Stages | None = None  # where this run encoded it

    @property
    def retryable(self) -> bool:
        """Whether it has rows that another try may mend."""
        return any(RowErrorCode(code).retryable for code in self.failed_by_code)


def settle(
    shard: Shard, totals: Totals, source_sha256: str, stages: Stages | None = None
) -> SettledShard:
    """Sum up a shard file."""
    failed = totals.failed_by_code.total()
    return SettledShard(
        IndexRow(
            name=shard.name,
            rows=totals.rows,
            ok=totals.rows - failed,
            failed=failed,
            bytes=totals.size,
            source_size=shard.size,
            source_mtime_ns=shard.mtime_ns,
            source_sha256=source_sha256,
            content_sha256=totals.content_sha256,
            file_sha256=totals.file_sha256,
        ),
        totals.failed_by_code,
        stages,
    )


def find_settled(
    cache: str, shards: Iterable[Shard], fingerprint_sha256: str
) -> dict[str, SettledShard]:
    """Sum up the shards that earlier runs have done with this fingerprint.

    What a committed index says is taken as it is, where the file still has its size: reading the
    whole cache again is ``verify``'s work, and a new hash would bless a damaged file. A source
    that may have changed, by its times, is read again and hashed.

    Raises StorageError.
    """
    files = shard_files(cache)
    committed = _committed(cache)

    def find(shard: Shard) -> SettledShard | None:
        row, file = committed.get(shard.name), files[shard.name]
        try:
            if row is None:
                found = _read(cache, shard, fingerprint_sha256)
                changed = shard.mtime_ns > (file.mtime_ns or 0)
            elif (row.bytes, row.source_size) == (file.size, shard.size):
                changed = row.source_mtime_ns != shard.mtime_ns
                now = replace(row, source_mtime_ns=shard.mtime_ns) if changed else row
                found = SettledShard(now, _failures(cache, row))
            else:
                return None
        except (CacheCorrupt, UnsupportedVersion):
            return None  # written again, whatever it is
        if found is not None and changed and _sha256(shard) != found.index.source_sha256:
            return None
        return found

    there = [shard for shard in shards if shard.name in files]
    largest = max((file.size for file in files.values()), default=0)
    readers = min(_READERS, max(1, _READ_BYTES // max(1, largest)))
    settled: dict[str, SettledShard] = {}
    with ThreadPoolExecutor(readers) as pool:
        for first in range(0, len(there), _BATCH):
            for found in pool.map(find, there[first : first + _BATCH]):
                if found is not None:
                    settled[found.index.name] = found
    return settled


def _committed(cache: str) -> dict[str, IndexRow]:
    """The index by shard name; nothing where the cache is not committed or its index is damaged."""
    manifest = readable_manifest(cache)
    if manifest is None or not storage.exists(layout.index_file(cache)):
        return {}
    data = storage.read_bytes(layout.index_file(cache))
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        return {}
    return {row.name: row for row in index.decode(data, layout.index_file(cache))}


def readable_manifest(cache: str) -> Manifest | None:
    """The manifest, where there is one that is not damaged."""
    uri = layout.manifest_file(cache)
    try:
        return Manifest.read(uri) if storage.exists(uri) else None
    except InvalidDocument:
        return None


def _sha256(shard: Shard) -> str | None:
    """Of a source, None where it can't be read: its encoder will say so better."""
    try:
        return storage.sha256(shard.uri)
    except StorageError:
        return None


def _read(cache: str, shard: Shard, fingerprint_sha256: str) -> SettledShard | None:
    uri = layout.shard_file(cache, shard.name)
    data = storage.read_bytes(uri)
    totals, footer = shard_file.sum_up(data, uri)
    if footer.fingerprint_sha256 != fingerprint_sha256:
        return None
    return settle(shard, totals, footer.source_sha256)


def _failures(cache: str, row: IndexRow) -> Counter[str]:
    """Row error codes, which the index does not keep."""
    if row.failed == 0:
        return Counter()
    table = read_columns(layout.shard_file(cache, row.name), ["status"])
    return Counter(code for code in map(str, table["status"].to_pylist()) if code != OK)


def read_columns(uri: str, columns: list[str]) -> pa.Table:
    """Read some columns of a shard file, and not the others.

    Raises CacheCorrupt.
    """
    filesystem, path = storage.resolve(uri)
    try:
        return pq.read_table(path, filesystem=filesystem, columns=columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CacheCorrupt(f"{uri} is not a readable shard file: {error}") from error
