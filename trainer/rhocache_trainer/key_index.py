"""Finding the rows of a cache by their pairs' keys, whatever dataset holds the pairs."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from rhocache_schemas import layout, storage
from rhocache_schemas.errors import CacheCorrupt, CacheIncomplete, InvalidInput
from rhocache_schemas.shard_file import OK
from rhocache_trainer.cache import ReferenceCache

pc: Any = pyarrow.compute  # whose stubs know no strings and numbers beside columns

_SEPARATOR = pa.scalar("\0", pa.large_string())


def find_rows(
    cache: ReferenceCache, keys: pa.ChunkedArray, shards: pa.ChunkedArray | None = None
) -> npt.NDArray[np.int64]:
    """Give each key's usable row by its number in the whole cache, −1 where there is none.

    ``keys`` are strings; ``shards``, just as many, the names of the shards to look them up in, and
    None to look in all. Only the keys are read from the cache's files, all of them.

    Raises InvalidInput when a key that is looked for is in several shards and none is told, and
    CacheIncomplete or CacheCorrupt for a file that is missing or unreadable.
    """
    names, numbers = _rows(cache, with_shard=shards is not None)
    if shards is not None:
        keys = pc.binary_join_element_wise(shards, keys, _SEPARATOR)
    else:
        _check_once(cache, names, keys)
    found = pc.index_in(keys, value_set=names).fill_null(-1).to_numpy()
    return np.where(found < 0, -1, numbers[found])


def _rows(
    cache: ReferenceCache, *, with_shard: bool
) -> tuple[pa.ChunkedArray, npt.NDArray[np.int64]]:
    """The keys of all rows that are ok, and those rows' numbers."""
    keys: list[pa.Array] = []
    numbers: list[npt.NDArray[np.int64]] = []
    first = 0
    for name, entry in cache.shards.items():
        table = _read(layout.shard_file(cache.uri, name))
        if len(table) != entry.rows:
            raise CacheCorrupt(f"{cache.uri}: shard {name} has other rows than its index entry")
        ok = pc.equal(table["status"].cast(pa.string()), OK)
        key = table["key"].filter(ok).cast(pa.large_string()).combine_chunks()
        if with_shard:
            key = pc.binary_join_element_wise(pa.scalar(name, pa.large_string()), key, _SEPARATOR)
        keys.append(key)
        numbers.append(first + np.flatnonzero(ok.to_numpy()))
        first += entry.rows
    return pa.chunked_array(keys, pa.large_string()), np.concatenate([*numbers, np.empty(0, int)])


def _read(source: str) -> pa.Table:
    filesystem, path = storage.resolve(source)
    try:
        with filesystem.open_input_file(path) as file:
            return pq.ParquetFile(file).read(["key", "status"])
    except FileNotFoundError as error:
        raise CacheIncomplete(f"{source} is in the cache's index but is not there") from error
    except (pa.ArrowException, OSError) as error:
        raise CacheCorrupt(f"{source} is not a readable shard file: {error}") from error


def _check_once(cache: ReferenceCache, names: pa.ChunkedArray, keys: pa.ChunkedArray) -> None:
    if pc.count_distinct(names).as_py() == len(names):
        return
    counts = pc.value_counts(names)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    asked = keys.filter(pc.is_in(keys, value_set=repeated))
    if len(asked):
        raise InvalidInput(
            f"{cache.uri} has key {asked[0]} in several shards, and {len(asked)} of the dataset's "
            "pairs have such keys; add a column with each pair's shard to the dataset "
            "(data.shard_column)"
        )
