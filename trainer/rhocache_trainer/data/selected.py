"""Trains on the pairs of a selection alone: others are neither decoded nor counted."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from rhocache_schemas.cache.shard_file import OK
from rhocache_schemas.dataset.formats.base import Format, KeyedFormat
from rhocache_schemas.dataset.keys import Strings
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import DatasetError
from rhocache_schemas.table.selection import Selection
from rhocache_trainer.cache.reader import ReferenceCache
from rhocache_trainer.data.join import JoinedPair, PairSource

Mask = npt.NDArray[np.bool_]


class SelectedPairs:
    """The pairs of another source that are selected, numbered anew from 0 to n − 1.

    ``selected`` [n of the other] tells of each of its numbers. A shard's rows are its selected
    pairs, so that ranks and workers get equal shares of these. Raises DatasetError where none is
    left.
    """

    def __init__(self, pairs: PairSource, selected: Mask, place: str) -> None:
        self._pairs = pairs
        self._positions: dict[str, npt.NDArray[np.int64]] = {}  # in a shard, of those selected
        self.shards: list[Shard] = []
        for shard in pairs.shards:
            numbers = pairs.numbers(shard)
            positions = np.flatnonzero((numbers >= 0) & selected[np.maximum(numbers, 0)])
            if len(positions):
                self.shards.append(replace(shard, rows=len(positions)))
                self._positions[shard.name] = positions
        self.usable = sum(map(len, self._positions.values()))
        if not self.usable:
            raise DatasetError(
                f"{place} selects none of the {pairs.n} pairs: was it made of another dataset?"
            )
        self._number = np.cumsum(selected) - 1
        self._selected = selected
        self.n = int(selected.sum())
        chosen = xxhash.xxh3_128_hexdigest(np.packbits(selected).tobytes())
        self.identity = f"{pairs.identity}, of them {self.n} {chosen}"
        self.references = pairs.references
        self.cached = pairs.cached

    def numbers(self, shard: Shard) -> npt.NDArray[np.int64]:
        return self._number[self._pairs.numbers(shard)[self._positions[shard.name]]]

    def keys(self) -> Iterator[tuple[str, Strings]] | None:
        keys = self._pairs.keys()
        return None if keys is None else self._selected_keys(keys)

    def _selected_keys(self, every: Iterator[tuple[str, Strings]]) -> Iterator[tuple[str, Strings]]:
        first = 0
        for shard, keys in every:
            chosen = self._selected[first : first + len(keys)]
            yield shard, keys.filter(pa.array(chosen))
            first += len(keys)

    def read(self, shard: Shard, start: int = 0) -> Iterator[JoinedPair]:
        positions = self._positions[shard.name]
        if start >= len(positions):
            return
        for joined in self._pairs.read(shard, int(positions[start])):
            if joined.index >= 0 and self._selected[joined.index]:
                yield replace(joined, index=int(self._number[joined.index]))

    def load(self, joined: JoinedPair) -> JoinedPair:
        return replace(self._pairs.load(joined), index=joined.index)


def selected_rows(selection: Selection, cache: ReferenceCache) -> Mask:
    """Which rows of a cache are ok and selected, by their numbers in it, [n]."""
    parts = [
        selection.has(shard, table["key"]) & (np.array(table["status"].to_pylist()) == OK)
        for shard, table in cache.reader.columns_of_all(cache.shards, ["key", "status"])
    ]
    return np.concatenate(parts)


def selected_pairs(selection: Selection, dataset: Format) -> Mask:
    """Which pairs of a dataset are selected, in its order, [n]. Tars are read for it."""
    if isinstance(dataset, KeyedFormat):
        keys, shards = dataset.keys(), dataset.cache_shards()
        if shards is None:
            return selection.has_keys(keys)
        return _by_shard(selection, keys, shards)
    parts = [
        selection.has(shard.name, pa.array([pair.key for pair in dataset.read(shard)], pa.string()))
        for shard in dataset.shards
    ]
    return np.concatenate(parts)


def _by_shard(selection: Selection, keys: Strings, shards: Strings) -> Mask:
    named = shards.combine_chunks().dictionary_encode()
    places, keys = named.indices.to_numpy(), keys.combine_chunks()
    selected = np.zeros(len(keys), np.bool_)
    for place, shard in enumerate(named.dictionary.to_pylist()):
        rows = np.flatnonzero(places == place)
        selected[rows] = selection.has(shard, keys.take(pa.array(rows)))
    return selected
