"""Two caches of the same data side by side: how alike their similarities are, and where not."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition

import numpy as np
from cachetools import LRUCache, cached

from rhocache_schemas.api import CachedPair
from rhocache_schemas.cache.reader import CacheReader
from rhocache_service.caches.similarity import some_of

_POINTS = 1500  # of the scatter
_DIFFERING = 24  # pairs
_REMEMBERED = 4  # comparisons


@dataclass(frozen=True, slots=True)
class Comparison:
    common: int  # shards that both have, with the same bytes
    shards: int  # of them that were read: all, or of many some, chosen evenly
    pairs: int  # of them that both could use
    correlation: float | None  # Pearson's, of the similarities
    mean_difference: float  # first less second
    points: np.ndarray  # float32 [k, 2], chosen evenly among the pairs
    differing: list[tuple[CachedPair, float]]  # of the first, with the second's similarity


def compare(first: CacheReader, second: CacheReader) -> Comparison:
    """Compare two caches over the shards that they share, over some of them where they are many.

    Raises CacheError and StorageError.
    """
    common = [
        name
        for name, row in first.index.items()
        if name in second.index and second.index[name].source_sha256 == row.source_sha256
    ]
    shards = some_of(common, sum(first.index[name].rows for name in common))
    values: list[np.ndarray] = [np.empty((0, 2), np.float32)]
    most: list[tuple[CachedPair, float]] = []
    tables = (cache.columns_of_all(shards, ["similarity"]) for cache in (first, second))
    for (shard, ours), (_, theirs) in zip(*tables, strict=True):
        both = np.stack([ours["similarity"].to_numpy(), theirs["similarity"].to_numpy()], axis=1)
        usable = np.flatnonzero(np.isfinite(both).all(axis=1))
        values.append(both[usable])
        most = _most_differing(first, shard, both, usable, most)
    every = np.concatenate(values)
    apart = every[:, 0].astype(np.float64) - every[:, 1]
    return Comparison(
        common=len(common),
        shards=len(shards),
        pairs=len(every),
        correlation=_correlation(every),
        mean_difference=float(apart.mean()) if len(every) else 0.0,
        points=every[:: max(1, len(every) // _POINTS)][:_POINTS],
        differing=most,
    )


def remember_comparisons() -> Callable[[CacheReader, CacheReader], Comparison]:
    """``compare`` that remembers the last few, as long as their caches stay the same."""
    found: LRUCache[tuple[str, ...], Comparison] = LRUCache(_REMEMBERED)

    def key(first: CacheReader, second: CacheReader) -> tuple[str, ...]:
        caches = (first, second)
        return tuple(part for each in caches for part in (each.uri, each.manifest.index_sha256))

    return cached(found, key, condition=Condition())(compare)


def _most_differing(
    cache: CacheReader,
    shard: str,
    both: np.ndarray,
    usable: np.ndarray,
    known: list[tuple[CachedPair, float]],
) -> list[tuple[CachedPair, float]]:
    """The pairs of a shard, and those known before, that differ most."""
    apart = np.abs(both[usable, 0] - both[usable, 1])
    rows = usable[np.argsort(-apart, kind="stable")[:_DIFFERING]]
    if not len(rows) or (len(known) == _DIFFERING and apart.max() <= _apart(known[-1])):
        return known  # without a look at its keys
    keys = cache.columns(shard, ["key"])["key"]
    found = known + [
        (
            CachedPair(
                shard=shard,
                key=str(keys[int(row)].as_py()),
                row=int(row),
                status="ok",
                similarity=float(both[row, 0]),
            ),
            float(both[row, 1]),
        )
        for row in rows
    ]
    found.sort(key=_apart, reverse=True)
    return found[:_DIFFERING]


def _apart(item: tuple[CachedPair, float]) -> float:
    return abs((item[0].similarity or 0.0) - item[1])


def _correlation(every: np.ndarray) -> float | None:
    if len(every) < 2 or not every.std(axis=0).all():
        return None
    first, second = every.astype(np.float64).T
    return float(np.corrcoef(first, second).item(0, 1))
