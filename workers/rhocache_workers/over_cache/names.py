"""The pairs that numbers mean: shard, key and row of the usable pairs of a cache."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.shard_file import OK
from rhocache_workers.over_cache.embeddings import Numbers

NAMES = pa.schema([("shard", pa.string()), ("key", pa.string()), ("row", pa.int32())])


def at(places: Numbers | npt.NDArray[np.int32]) -> Any:
    """Places as pyarrow takes them, whose stubs know none of numpy's."""
    return pa.array(places)


class Names:
    """Looks numbers up as read_blocks gives them, which count the usable pairs of all shards."""

    def __init__(self, cache: CacheReader) -> None:
        self._cache = cache
        self._shards = list(cache.index)
        self._firsts = np.cumsum([0, *(row.ok for row in cache.index.values())])

    def of(self, numbers: Numbers) -> pa.Table:
        """Return a row of ``NAMES`` for each number, in their order.

        Only keys are read, of the shards that are meant. Raises CacheError and StorageError.
        """
        distinct, places = np.unique(numbers, return_inverse=True)
        cuts = np.searchsorted(distinct, self._firsts)
        meant = np.flatnonzero(np.diff(cuts))
        names = [self._shards[place] for place in meant]
        parts = [NAMES.empty_table()]
        read = self._cache.columns_of_all(names, ["key", "row", "status"])
        for place, (shard, table) in zip(meant, read, strict=True):
            rows = distinct[cuts[place] : cuts[place + 1]] - self._firsts[place]
            usable = np.flatnonzero(np.array(table["status"].to_pylist()) == OK)
            taken = table.select(["key", "row"]).take(at(usable[rows]))
            shards = pa.repeat(shard, len(rows))
            parts.append(pa.table([shards, *taken.columns], schema=NAMES))
        return pa.concat_tables(parts).take(at(places))
