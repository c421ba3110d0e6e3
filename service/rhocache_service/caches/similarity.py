"""The similarities of a committed cache: their distribution, and the most and least alike pairs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition

import numpy as np
import pyarrow as pa
from cachetools import LRUCache, cached

from rhocache_schemas.api import CachedPair
from rhocache_schemas.cache.reader import CacheReader

_REMEMBERED = 4  # caches
# Of a larger cache shards are chosen evenly: no page waits until 100,000 are read, and the ranks of
# 10**9 pairs would take 12 GB.
_SHARDS = 1000
_PAIRS = 10_000_000


@dataclass(frozen=True, slots=True)
class Similarities:
    """Of the usable pairs of the shards that were read: where each lies, and what it is."""

    shards: list[str]  # that were read
    shard: np.ndarray  # int32 [n], into shards
    row: np.ndarray  # int32 [n]
    similarity: np.ndarray  # float32 [n], ascending

    def pair(self, rank: int, key: str) -> CachedPair:
        return CachedPair(
            shard=self.shards[int(self.shard[rank])],
            key=key,
            row=int(self.row[rank]),
            status="ok",
            similarity=float(self.similarity[rank]),
            rank=rank,
        )


Ranking = Callable[[CacheReader], Similarities]


def by_rank(
    cache: CacheReader, ranking: Ranking, first: int, most: int, *, highest: bool = False
) -> tuple[list[CachedPair], int]:
    """The pairs from a place on in the order of similarity, and of how many shards they are.

    A cache's summary has the first 1,000 of both ends. What lies deeper is ranked, where the cache
    is small enough for all of it to be read; and where a cache has no summary, of a large one some.

    Raises CacheError and StorageError.
    """
    summary = cache.summary
    if summary is not None:
        kept = summary.highest if highest else summary.lowest
        if first + most <= len(kept) or len(kept) == summary.pairs or not _is_small(cache):
            pairs = [
                CachedPair(
                    shard=pair.shard,
                    key=pair.key,
                    row=pair.row,
                    status="ok",
                    similarity=pair.similarity,
                    rank=summary.pairs - 1 - place if highest else place,
                )
                for place, pair in enumerate(kept[first : first + most], first)
            ]
            return pairs, cache.manifest.shards
    ranked = ranking(cache)
    total = len(ranked.similarity)
    ranks = list(range(first, min(first + most, total)))
    if highest:
        ranks = [total - 1 - rank for rank in ranks]
    return pairs_at(cache, ranked, ranks), len(ranked.shards)


def _is_small(cache: CacheReader) -> bool:
    return cache.manifest.shards <= _SHARDS and cache.manifest.rows <= _PAIRS


def some_of(shards: list[str], pairs: int) -> list[str]:
    """Shards of so many pairs that a page may read: all, or of many some, chosen evenly."""
    return shards[:: max(1, math.ceil(len(shards) / _SHARDS), math.ceil(pairs / _PAIRS))]


def read_similarities(cache: CacheReader) -> Similarities:
    """Sort the pairs of a committed cache by similarity, of a large one those of some shards.

    They take 12 bytes a pair. Raises CacheError and StorageError.
    """
    shards = some_of(list(cache.index), cache.manifest.rows)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for number, (_, table) in enumerate(cache.columns_of_all(shards, ["row", "similarity"])):
        values = table["similarity"].to_numpy()
        usable = np.isfinite(values)
        rows = table["row"].to_numpy()[usable]
        parts.append((np.full(len(rows), number, np.int32), rows, values[usable]))
    columns = [np.concatenate(part) for part in zip(*parts, strict=True)] if parts else []
    if not columns:
        empty = np.empty(0, np.int32)
        return Similarities(shards, empty, empty, np.empty(0, np.float32))
    order = np.argsort(columns[2], kind="stable")
    return Similarities(shards, *(column[order] for column in columns))


def remember_similarities() -> Ranking:
    """``read_similarities`` that remembers the last few caches, as long as they stay the same.

    A cache is read once, however many ask for it at a time.
    """
    found: LRUCache[tuple[str, str], Similarities] = LRUCache(_REMEMBERED)

    def key(cache: CacheReader) -> tuple[str, str]:
        return cache.uri, cache.manifest.index_sha256

    return cached(found, key, condition=Condition())(read_similarities)


def pairs_at(cache: CacheReader, ranked: Similarities, ranks: Sequence[int]) -> list[CachedPair]:
    """The pairs of these ranks. Raises CacheError and StorageError."""
    keys: dict[str, pa.ChunkedArray[pa.StringScalar]] = {}
    found: list[CachedPair] = []
    for rank in ranks:
        shard = ranked.shards[int(ranked.shard[rank])]
        if shard not in keys:
            keys[shard] = cache.columns(shard, ["key"])["key"]
        key = keys[shard][int(ranked.row[rank])]
        found.append(ranked.pair(rank, str(key.as_py())))
    return found
