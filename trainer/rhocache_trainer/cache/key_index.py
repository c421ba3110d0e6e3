"""Finding the rows of a cache by their pairs' keys, whatever dataset holds the pairs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from rhocache_schemas.cache.shard_file import OK
from rhocache_schemas.dataset.keys import AMBIGUOUS, Strings, below, find_keys, without_suffix
from rhocache_schemas.errors import CacheCorrupt, DatasetError, InvalidInput
from rhocache_trainer.cache.reader import ReferenceCache

pc: Any = pyarrow.compute  # whose stubs know no strings and numbers beside columns


def find_rows(
    cache: ReferenceCache, keys: Strings, shards: Strings | None = None
) -> npt.NDArray[np.int64]:
    """Return each key's usable row by its number in the whole cache, −1 where there is none.

    ``keys`` are strings; ``shards``, just as many, the names of the shards to look them up in, and
    None to look in all. Both are found by the rule of rhocache_schemas.dataset.keys, where a row's
    path is its shard's name and its key. Only the keys are read from the cache's files, all of
    them.

    Raises InvalidInput when keys that are looked for may mean several rows, DatasetError for keys
    that are not UTF-8, and CacheIncomplete or CacheCorrupt for files that are missing or broken.
    """
    known, names, numbers = _rows(cache)
    try:
        if shards is None:
            found = find_keys(keys, known, paths=lambda: below(without_suffix(names()), known))
        else:
            found = find_keys(keys, known, groups=(_known_names(cache, shards), names()))
    except pa.ArrowInvalid as error:
        raise DatasetError(f"the dataset's keys are not UTF-8: {error}") from error
    ambiguous = np.flatnonzero(found == AMBIGUOUS)
    if len(ambiguous):
        raise InvalidInput(
            f"{cache.uri} has key {keys[int(ambiguous[0])]} in several shards, or several that end "
            f"alike, and {len(ambiguous)} of the dataset's pairs have such keys; add a column with "
            "each pair's shard to the dataset (data.shard_column), or give keys with their folders"
        )
    return np.where(found < 0, -1, numbers[found]) if len(numbers) else found


def _known_names(cache: ReferenceCache, shards: Strings) -> Strings:
    """The cache's names of shards, which a table may give as paths or without suffix."""
    given: Any = shards.combine_chunks().dictionary_encode()
    known: Any = pa.array(cache.shards, pa.large_string())
    found = find_keys(given.dictionary, known)
    names: Any = pc.if_else(
        found >= 0, known.take(pa.array(np.maximum(found, 0))), given.dictionary
    )
    return names.take(given.indices)


def _rows(
    cache: ReferenceCache,
) -> tuple[Strings, Callable[[], Strings], npt.NDArray[np.int64]]:
    """The keys of all rows that are ok, what makes the names of their shards, and their numbers.

    The names take more memory than the keys.
    """
    keys: list[Strings] = []
    numbers: list[npt.NDArray[np.int64]] = []
    first = 0
    for name, table in cache.reader.columns_of_all(cache.shards, ["key", "status"]):
        entry = cache.shards[name]
        if len(table) != entry.rows:
            raise CacheCorrupt(f"{cache.uri}: shard {name} has other rows than its index entry")
        ok = pc.equal(table["status"].cast(pa.string()), OK)
        keys.append(table["key"].filter(ok).cast(pa.large_string()).combine_chunks())
        numbers.append(first + np.flatnonzero(ok.to_numpy()))
        first += entry.rows
    counts = [len(each) for each in keys]

    def names() -> Strings:
        each: Any = pa.array(cache.shards, pa.large_string())
        return each.take(pa.array(np.repeat(np.arange(len(counts)), counts)))

    all_keys = pa.chunked_array(keys, pa.large_string())
    return all_keys, names, np.concatenate([*numbers, np.empty(0, int)])
