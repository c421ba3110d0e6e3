"""Shards that are done: their lines in the index, and what their rows came to."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.shard_file import OK
from rhocache_schemas.errors import CacheCorrupt


def status_counts(cache: str, shard: str) -> Counter[str]:
    """Count the row error codes of a shard file, which the index does not keep.

    Raises CacheCorrupt.
    """
    table = read_columns(layout.shard_file(cache, shard), ["status"])
    return Counter(code for code in map(str, table["status"].to_pylist()) if code != OK)


def read_columns(uri: str, columns: list[str]) -> pa.Table:
    """Read some columns of a shard file, and not the others.

    Raises CacheCorrupt.
    """
    filesystem, path = storage.resolve(uri)
    try:
        with filesystem.open_input_file(path) as file:
            return pq.ParquetFile(file).read(columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CacheCorrupt(f"{uri} is not a readable shard file: {error}") from error
