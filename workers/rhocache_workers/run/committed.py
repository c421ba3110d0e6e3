"""What committed shard files hold, read by columns."""

from collections import Counter

import pyarrow as pa

from rhocache_schemas import layout
from rhocache_schemas.cache import shard_file
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
    try:
        return shard_file.read_columns(uri, columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CacheCorrupt(f"{uri} is not a readable shard file: {error}") from error
