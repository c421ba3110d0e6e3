"""What is known of a cache's similarities without reading its shards.

The writer of a shard file knows its own part: a histogram, the lowest and the highest, and how far
its rounded embeddings are from the exact ones. The index keeps it, and the commit makes
``summary.json`` of all.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from rhocache_schemas.abandonment import keep_on
from rhocache_schemas.documents import CacheDocument, Strict

BINS = 4096  # of equal width over [−1, 1]: edges are exact in single precision
KEPT = 1000  # pairs, lowest and highest
TAU = 0.01  # the smallest temperature that training knows
_AT_ONCE = 16  # shards that are read; an object store answers each only after a while

RANKED = ["row", "key", "similarity"]  # the columns that a RankedPair is made of

Count = Annotated[int, Field(ge=0)]
Read = Callable[[str, list[str]], Any]  # some columns of a shard's file


class Spread(Strict):
    """Of the absolute errors of many numbers."""

    mean: float
    p99: float  # 99 of 100 are at most this
    max: float

    def plus(self, other: "Spread") -> "Spread":
        return Spread(
            mean=self.mean + other.mean, p99=self.p99 + other.p99, max=self.max + other.max
        )

    def times(self, factor: float) -> "Spread":
        return Spread(mean=factor * self.mean, p99=factor * self.p99, max=factor * self.max)


class Rounding(Strict):
    """What storing embeddings changed of their similarities r_ij, as it was measured."""

    pairs: Count  # of an image i and a text j that were compared
    similarity: Spread  # of r_ij
    logit: Spread  # of r_ij / 0.01

    def plus(self, other: "Rounding") -> "Rounding":
        """Return what two roundings, one after the other, change at most."""
        return Rounding(
            pairs=min(self.pairs, other.pairs),
            similarity=self.similarity.plus(other.similarity),
            logit=self.logit.plus(other.logit),
        )

    @classmethod
    def of(cls, parts: "Iterable[ShardRounding | None]") -> "Rounding | None":
        """Sum up what was measured shard by shard; None where one was not.

        The 99th percentile is that of the shard in which it is largest.
        """
        every = list(parts)
        known = [part for part in every if part is not None]
        pairs = sum(part.pairs for part in known)
        if len(known) < len(every) or not pairs:
            return None
        spread = Spread(
            mean=sum(part.mean * part.pairs for part in known) / pairs,
            p99=max(part.p99 for part in known),
            max=max(part.max for part in known),
        )
        return cls(pairs=pairs, similarity=spread, logit=spread.times(1 / TAU))


@dataclass(frozen=True, slots=True)
class ShardRounding:
    """Of the absolute errors of r_ij over some pairs of a shard."""

    pairs: int
    mean: float
    p99: float
    max: float


NOTHING_ROUNDED = ShardRounding(0, 0.0, 0.0, 0.0)  # of a shard without usable rows


def measure(
    exact: tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]],
    stored: tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]],
) -> ShardRounding:
    """Compare every r_ij of image and text embeddings, [n, d] each, with that of stored ones."""
    image, text = (each.astype(np.float64) for each in exact)
    image_stored, text_stored = (each.astype(np.float64) for each in stored)
    if not len(image):
        return NOTHING_ROUNDED
    errors = np.abs(image @ text.T - image_stored @ text_stored.T)
    # Of four digits, which another machine's order of adding up leaves as they are.
    told = (float(f"{value:.3e}") for value in (
        errors.mean(), np.quantile(errors, 0.99), errors.max()))  # fmt: skip
    return ShardRounding(errors.size, *told)


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """A shard's part."""

    lowest: float | None  # similarity of a usable pair; None where there is none
    highest: float | None
    histogram: bytes  # zlib's, of BINS counts as little-endian uint32
    rounding: ShardRounding | None  # None where nobody has measured it

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """The histogram, [BINS]."""
        return np.frombuffer(zlib.decompress(self.histogram), "<u4").astype(np.int64)


class ShardSummer:
    """Sums up a shard's similarities a row group at a time."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.int64)
        self._lowest, self._highest = np.inf, -np.inf

    def update(self, similarity: npt.NDArray[np.float32]) -> None:
        """Count in the similarities of usable rows."""
        if len(similarity):
            self._counts += np.bincount(bins(similarity), minlength=BINS)
            self._lowest = min(self._lowest, float(similarity.min()))
            self._highest = max(self._highest, float(similarity.max()))

    def summary(self, rounding: ShardRounding | None) -> ShardSummary:
        there = self._lowest <= self._highest
        return ShardSummary(
            self._lowest if there else None,
            self._highest if there else None,
            zlib.compress(self._counts.astype("<u4").tobytes()),
            rounding,
        )


def bins(similarity: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The bin of each: number k holds −1 + 2k/BINS and up to what the next one holds."""
    places = (similarity.astype(np.float64) + 1) * (BINS // 2)
    return np.clip(places, 0, BINS - 1).astype(np.int64)


class RankedPair(Strict):
    shard: str
    row: Count
    key: str
    similarity: float


class Summary(CacheDocument):
    """``summary.json``: of all usable pairs of a cache."""

    pairs: Count  # that are usable
    bytes: Count  # of the shard files
    first_bin: Count  # of the histogram, of 4096 bins over [−1, 1]
    counts: list[Count]  # of it and those after it; the others are 0
    lowest: list[RankedPair]  # ascending, 1,000 or all
    highest: list[RankedPair]  # descending

    @property
    def histogram(self) -> npt.NDArray[np.int64]:
        """Pairs by bin, [BINS]."""
        every = np.zeros(BINS, np.int64)
        every[self.first_bin : self.first_bin + len(self.counts)] = self.counts
        return every

    def quantile(self, share: float) -> float | None:
        """The similarity that a share of the pairs is below, exact to a bin's width, 2/4096.

        Of as many pairs as are kept it is exact. None where there is no pair.
        """
        if not self.pairs:
            return None
        if len(self.lowest) == self.pairs:
            return float(np.quantile([pair.similarity for pair in self.lowest], share))
        low, high = self.lowest[0].similarity, self.highest[0].similarity
        sums = np.concatenate([[0], np.cumsum(self.histogram)])
        edges = np.linspace(-1, 1, BINS + 1)
        rank = share * self.pairs
        number = min(int(np.searchsorted(sums, rank, "left")), BINS)
        below = max(0, number - 1)
        inside = (rank - sums[below]) / max(1, sums[number] - sums[below])
        return float(np.clip(edges[below] + inside * (edges[number] - edges[below]), low, high))


def summarise(shards: Mapping[str, tuple[ShardSummary, int]], read: Read) -> Summary:
    """Sum up a cache of these shards, each with the bytes of its file.

    ``read`` gives columns of a shard's file; only those are read that have one of the lowest or
    highest pairs.
    """
    histogram = np.zeros(BINS, np.int64)
    for part, _ in shards.values():
        histogram += part.counts
    filled = np.flatnonzero(histogram)
    first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
    parts = {name: part for name, (part, _) in shards.items() if part.lowest is not None}
    return Summary(
        pairs=int(histogram.sum()),
        bytes=sum(size for _, size in shards.values()),
        first_bin=first,
        counts=histogram[first:last].tolist(),
        lowest=extremes({name: part.lowest or 0.0 for name, part in parts.items()}, read, 1),
        highest=extremes({name: part.highest or 0.0 for name, part in parts.items()}, read, -1),
    )


def extremes(ends: Mapping[str, float], read: Read, sign: int) -> list[RankedPair]:
    """The KEPT lowest pairs (``sign`` 1) or highest (−1) of shards with these lowest (highest).

    Shards are visited from the lowest on, until no other can have one. Of equal pairs those come
    first whose shard was visited first.
    """
    order = sorted(ends, key=lambda name: (sign * ends[name], name))
    best: list[tuple[float, RankedPair]] = []

    def bound() -> float:
        return best[-1][0] if len(best) == KEPT else np.inf

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, len(order), _AT_ONCE):
            keep_on()
            batch = order[start : start + _AT_ONCE]
            if sign * ends[batch[0]] >= bound():
                break
            tables = pool.map(read, batch, repeat(RANKED))
            for name, table in zip(batch, tables, strict=True):
                found = best + ends_of(name, table, sign, bound())
                best = sorted(found, key=lambda each: each[0])[:KEPT]
    return [pair for _, pair in best]


def ends_of(shard: str, table: Any, sign: int, bound: float) -> list[tuple[float, RankedPair]]:
    """A shard's pairs that may be among the KEPT: those below ``bound``, the first first."""
    values = sign * table["similarity"].to_numpy()  # NaN where null
    order = np.argsort(values, kind="stable")[:KEPT]
    order = order[values[order] < bound]
    rows = table.take(order).to_pylist()
    return [
        (float(value), RankedPair(shard=shard, **row))
        for value, row in zip(values[order], rows, strict=True)
    ]
