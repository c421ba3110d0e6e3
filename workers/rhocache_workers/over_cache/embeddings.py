"""Reads the embeddings of a cache's usable pairs, a shard at a time and one ahead."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhocache_schemas.cache.reader import CacheReader

Numbers = npt.NDArray[np.int64]
Rows = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Block:
    """The usable pairs of one shard or more: view 0 of the images, caption 0 of the texts."""

    image: Rows  # [n, d], as it is stored
    text: Rows  # [n, d]
    numbers: Numbers  # [n], of the pair among all usable ones of the cache, ascending
    usable: Mapping[str, npt.NDArray[np.bool_]]  # of each shard, which of its rows are here


def read_blocks(
    cache: CacheReader,
    shards: Sequence[str],
    *,
    at_least: int = 1,
    chosen: Mapping[str, Numbers] | None = None,
) -> Iterator[Block]:
    """Yield the pairs of shards, in their order, ``at_least`` so many at a time.

    ``chosen`` has of each shard those that are wanted, by their places among its usable pairs.
    Raises CacheIncomplete, CacheCorrupt and StorageError.
    """
    first = _first_numbers(cache)
    wanted = [name for name in shards if chosen is None or len(chosen[name])]
    parts: list[Block] = []
    with ThreadPoolExecutor(1) as ahead:
        reading = ahead.submit(_read, cache, wanted[0]) if wanted else None
        for place, name in enumerate(wanted):
            assert reading is not None  # noqa: S101 (of every shard)
            image, text, ok = reading.result()
            if place + 1 < len(wanted):
                reading = ahead.submit(_read, cache, wanted[place + 1])
            taken = np.arange(len(image)) if chosen is None else chosen[name]
            parts.append(Block(image[taken], text[taken], first[name] + taken, {name: ok}))
            if sum(len(part.numbers) for part in parts) >= at_least:
                yield _join(parts)
                parts = []
    if parts:
        yield _join(parts)


def _first_numbers(cache: CacheReader) -> dict[str, int]:
    """Of each shard, how many usable pairs the shards before it have."""
    counts = [row.ok for row in cache.index.values()]
    return dict(zip(cache.index, np.cumsum([0, *counts[:-1]]).tolist(), strict=True))


def _read(cache: CacheReader, shard: str) -> tuple[Rows, Rows, npt.NDArray[np.bool_]]:
    rows, _ = cache.rows(shard)
    return rows.image[rows.ok, 0], rows.text[rows.ok, 0], rows.ok


def _join(parts: Sequence[Block]) -> Block:
    if len(parts) == 1:
        return parts[0]
    usable: dict[str, npt.NDArray[np.bool_]] = {}
    for part in parts:
        usable.update(part.usable)
    return Block(
        np.concatenate([part.image for part in parts]),
        np.concatenate([part.text for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        usable,
    )
