"""Draws pairs of a cache at random, the same ones wherever it is done."""

from collections.abc import Mapping

import numpy as np

from rhocache_workers.over_cache.embeddings import Numbers


def draw(usable: Mapping[str, int], count: int, seed: int) -> dict[str, Numbers]:
    """Draw ``count`` of all usable pairs without replacement; ``usable`` is their number by shard.

    Pair j gets the j-th number of Philox (Salmon et al. 2011), a counter-based generator, with
    ``seed`` for its key, and those of the smallest are drawn. Returned are the places among each
    shard's usable pairs, ascending. It takes memory for ``count`` pairs and those of one shard.
    """
    numbers = np.random.Philox(key=seed)
    drawn = np.empty(0, np.uint64)
    places = np.empty(0, np.int64)
    first = 0
    for ok in usable.values():
        drawn = np.concatenate([drawn, numbers.random_raw(ok)])
        places = np.concatenate([places, np.arange(first, first + ok)])
        if len(drawn) > count:
            smallest = np.argpartition(drawn, count)[:count]
            drawn, places = drawn[smallest], places[smallest]
        first += ok
    places = np.sort(places)
    firsts = np.cumsum([0, *usable.values()])
    cuts = np.searchsorted(places, firsts)
    return {
        name: places[cuts[shard] : cuts[shard + 1]] - firsts[shard]
        for shard, name in enumerate(usable)
    }
