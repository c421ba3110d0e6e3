"""Reads what a selection goes by beside embeddings: of each usable pair of a cache a number."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.shard_file import OK
from rhocache_schemas.errors import InvalidInput, TableMismatch
from rhocache_schemas.table import files
from rhocache_schemas.table.pairs_file import KEY, PairsFile, read_pairs_file
from rhocache_schemas.table.reader import TableReader, is_table
from rhocache_workers.over_cache.names import at
from rhocache_workers.over_cache.neighbours.work import GROUPS

pc: Any = pyarrow.compute

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


class UsablePairs:
    """The usable pairs of a cache, by the numbers that read_blocks gives them."""

    def __init__(self, cache: CacheReader) -> None:
        """Read the status and the similarity of all pairs."""
        self.cache = cache
        self.rows: dict[str, Numbers] = {}  # of each shard's usable pairs
        self.first: dict[str, int] = {}  # the number of the first of them
        similarity: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)]
        self.count = 0
        for shard, table in cache.columns_of_all(cache.index, ["status", "similarity"]):
            rows = np.flatnonzero(np.array(table["status"].to_pylist(), object) == OK)
            self.rows[shard], self.first[shard] = rows, self.count
            self.count += len(rows)
            similarity.append(table["similarity"].to_numpy()[rows])
        self.similarity = np.concatenate(similarity)

    def keys(self, shard: str) -> Any:
        """The keys of a shard's usable pairs. Raises CacheError and StorageError."""
        keys = self.cache.columns(shard, ["key"])["key"].take(at(self.rows[shard]))
        return keys.combine_chunks()

    def slice(self, shard: str) -> slice:
        """Where a shard's usable pairs are among all."""
        return slice(self.first[shard], self.first[shard] + len(self.rows[shard]))


def open_table(place: str, manifest_sha256: str) -> TableReader:
    """Open a table that was made from a cache with this manifest.

    Raises TableMismatch where it was not, and as TableReader.open does.
    """
    table = TableReader.open(place)
    if table.manifest.cache_manifest_sha256 != manifest_sha256:
        raise TableMismatch(
            f"{place} was made from another cache, or before this one was committed anew: make "
            "the table again"
        )
    return table


def column(pairs: UsablePairs, place: str, name: str, manifest_sha256: str) -> Floats:
    """Return a column of numbers of a table, or of a Parquet file with shard and key, [count].

    NaN for a pair that it does not have, or that has null there.

    Raises TableMismatch for a table of another cache, InvalidInput for a column that there is not
    or that holds no numbers, and for a file that has none of the pairs.
    """
    found = np.full(pairs.count, np.nan)
    if is_table(place):
        table = open_table(place, manifest_sha256)
        table.check_columns([name])
        for shard, part in table.columns_of_all([name]):
            values = _numbers(part[name], place, name)
            found[pairs.slice(shard)] = values[pairs.rows[shard]]
        return found
    known = False
    for shard, places in _places(pairs, file := read_pairs_file(place, [name])):
        values = _numbers(file.by_shard[shard][name], place, name)
        found[pairs.slice(shard)][places >= 0] = values[places[places >= 0]]
        known |= bool((places >= 0).any())
    if not known:
        raise InvalidInput(
            f"{place} has none of the usable pairs of {pairs.cache.uri}: is it of another dataset?"
        )
    return found


def groups(pairs: UsablePairs, place: str, manifest_sha256: str) -> Numbers:
    """Return the near-duplicate group of each pair by a neighbours table, −1 for none, [count].

    Raises InvalidInput for another table, TableMismatch, and as reading a table does.
    """
    table = open_table(place, manifest_sha256)
    if all(file.name != f"files/{GROUPS}" for file in table.index):
        raise InvalidInput(
            f"{place} has no groups of near-duplicates: it takes a job of kind neighbours with a "
            "threshold to find them"
        )
    rows = files.decode(table.file(GROUPS), None, place)
    found = np.full(pairs.count, -1)
    shards: Any = rows["shard"].combine_chunks().dictionary_encode()
    for number, shard in enumerate(shards.dictionary.to_pylist()):
        here = rows.filter(pa.array(shards.indices.to_numpy() == number))
        places = np.searchsorted(pairs.rows[shard], here["row"].to_numpy())
        found[pairs.first[shard] + places] = here["group"].to_numpy()
    return found


def _places(pairs: UsablePairs, file: PairsFile) -> Any:
    """Yield each shard that both have, with where in the file its usable pairs are; −1: nowhere."""
    for shard, part in file.by_shard.items():
        if shard in pairs.rows:
            places = pc.index_in(pairs.keys(shard), value_set=part[KEY].combine_chunks())
            yield shard, places.fill_null(-1).to_numpy(zero_copy_only=False)


def _numbers(values: Any, place: str, name: str) -> Floats:
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InvalidInput(f"the column {name} of {place} holds {kind}, and no numbers")
    return values.cast(pa.float64()).to_numpy(zero_copy_only=False)
