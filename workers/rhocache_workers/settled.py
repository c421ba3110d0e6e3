"""Shards that are done: their lines in the index, and what their rows came to."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from rhocache_schemas import index, layout, shard_file, storage
from rhocache_schemas.dataset import Shard
from rhocache_schemas.errors import CacheCorrupt, UnsupportedVersion
from rhocache_schemas.index import IndexRow
from rhocache_schemas.records import Manifest
from rhocache_schemas.shard_file import OK, Totals
from rhocache_workers.listing import shard_file_sizes
from rhocache_workers.stages import Stages

_READERS = 16  # threads; an object store answers each of them only after a while


@dataclass(frozen=True, slots=True)
class SettledShard:
    index: IndexRow
    failed_by_code: Counter[str]
    stages: Stages = field(default_factory=Stages)  # of this run


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
        stages or Stages(),
    )


def find_settled(
    cache: str, shards: Iterable[Shard], fingerprint_sha256: str
) -> dict[str, SettledShard]:
    """Sum up the shards that earlier runs have done with this fingerprint.

    What a committed index says is taken as it is, where the file still has its size: reading the
    whole cache again is ``verify``'s work, and a new hash would bless a damaged file.

    Raises StorageError.
    """
    sizes = shard_file_sizes(cache)
    committed = _committed(cache)

    def find(shard: Shard) -> SettledShard | None:
        row = committed.get(shard.name)
        if row is None:
            return _read(cache, shard, fingerprint_sha256)
        same = (row.bytes, row.source_size) == (sizes[shard.name], shard.size)
        return SettledShard(row, _failures(cache, row)) if same else None

    there = [shard for shard in shards if shard.name in sizes]
    with ThreadPoolExecutor(_READERS) as pool:
        return {found.index.name: found for found in pool.map(find, there) if found is not None}


def _committed(cache: str) -> dict[str, IndexRow]:
    """The index by shard name; nothing where the cache is not committed or its index is damaged."""
    if not storage.exists(layout.manifest_file(cache)):
        return {}
    manifest = Manifest.read(layout.manifest_file(cache))
    data = storage.read_bytes(layout.index_file(cache))
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        return {}
    return {row.name: row for row in index.decode(data, layout.index_file(cache))}


def _read(cache: str, shard: Shard, fingerprint_sha256: str) -> SettledShard | None:
    uri = layout.shard_file(cache, shard.name)
    data = storage.read_bytes(uri)
    try:
        rows, footer = shard_file.decode(data, uri)
    except (CacheCorrupt, UnsupportedVersion):
        return None  # written again, whatever it is
    if footer.fingerprint_sha256 != fingerprint_sha256:
        return None
    return settle(shard, Totals.of(data, rows), footer.source_sha256)


def _failures(cache: str, row: IndexRow) -> Counter[str]:
    """Row error codes, which the index does not keep."""
    if row.failed == 0:
        return Counter()
    uri = layout.shard_file(cache, row.name)
    rows, _ = shard_file.decode(storage.read_bytes(uri), uri)
    return Counter(code for code in rows.status if code != OK)
