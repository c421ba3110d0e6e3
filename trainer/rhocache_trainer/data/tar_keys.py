"""Tars whose keys were read, to be joined by them with a cache that was made of no tars."""

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from rhocache_schemas.dataset.formats.base import Format
from rhocache_schemas.dataset.keys import Strings, below, without_suffix
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import Shard


class TarKeys:
    """Does what a KeyedFormat does. Making one reads the tars once.

    A key has its shard's name before it, as a folder: keys may begin anew in each tar.
    """

    def __init__(self, dataset: Format) -> None:
        self._dataset = dataset
        self.images = True
        self.shards = list(dataset.shards)
        keys: list[Strings] = []
        for place, shard in enumerate(dataset.shards):
            found = pa.array([pair.key for pair in dataset.read(shard)], pa.large_string())
            self.shards[place] = replace(shard, rows=len(found))
            folder = without_suffix(pa.array([shard.name], pa.large_string()))[0]
            keys.append(below(folder, found))
        self._keys = pa.chunked_array(keys, pa.large_string())

    def keys(self) -> Strings:
        return self._keys

    def cache_shards(self) -> None:
        return None

    def read(self, shard: Shard, start: int = 0) -> Iterator[Pair]:
        self._dataset.images = self.images
        return self._dataset.read(shard, start)

    def load(self, pair: Pair) -> Pair:
        return self._dataset.load(pair)
