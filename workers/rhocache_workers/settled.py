"""A shard whose file is there: its line in the index, and what its rows came to."""

import hashlib
from collections import Counter
from dataclasses import dataclass

from pyarrow import fs

from rhocache_schemas import layout, shard_file, storage
from rhocache_schemas.dataset import Shard
from rhocache_schemas.errors import CacheCorrupt, UnsupportedVersion
from rhocache_schemas.index import IndexRow
from rhocache_schemas.shard_file import OK, ShardRows


@dataclass(frozen=True, slots=True)
class SettledShard:
    index: IndexRow
    failed_by_code: Counter[str]


def settle(shard: Shard, data: bytes, rows: ShardRows, source_sha256: str) -> SettledShard:
    """Sum up a shard file with the bytes ``data``."""
    counts = Counter(rows.status)
    ok = counts.pop(OK, 0)
    return SettledShard(
        IndexRow(
            name=shard.name,
            rows=len(rows.keys),
            ok=ok,
            failed=counts.total(),
            bytes=len(data),
            source_size=shard.size,
            source_mtime_ns=shard.mtime_ns,
            source_sha256=source_sha256,
            content_sha256=rows.content_sha256(),
            file_sha256=hashlib.sha256(data).hexdigest(),
        ),
        counts,
    )


def is_done(cache: str, shard: Shard, fingerprint_sha256: str) -> bool:
    """Whether the shard's file is there and was made with this fingerprint."""
    uri = layout.shard_file(cache, shard.name)
    filesystem, path = storage.resolve(uri)
    if filesystem.get_file_info(path).type == fs.FileType.NotFound:
        return False
    with filesystem.open_input_file(path) as file:
        try:
            return shard_file.read_footer(file, uri).fingerprint_sha256 == fingerprint_sha256
        except (CacheCorrupt, UnsupportedVersion):
            return False  # written again, whatever it is


def read_settled(cache: str, shard: Shard) -> SettledShard:
    """Sum up a shard that an earlier run has done.

    Raises CacheCorrupt and StorageError.
    """
    uri = layout.shard_file(cache, shard.name)
    data = storage.read_bytes(uri)
    rows, footer = shard_file.decode(data, uri)
    return settle(shard, data, rows, footer.source_sha256)
