"""Finds each vector's nearest others by inner product: exactly in blocks, or by an index of faiss.

Vectors are float32 and of unit length, so that an inner product is a cosine. Each has a number of
its own, by which it is named and by which it is not found for itself.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import faiss as _faiss
import numpy as np
import numpy.typing as npt

from rhocache_schemas.errors import InvalidInput

faiss: Any = _faiss  # whose Python side is made at run time, where no checker sees it

Vectors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
Block = tuple[Numbers, Vectors]  # [b], [b, d]

_MOST = 1000  # neighbours a vector, on average, that a search by threshold alone may find
_TRAINING = 64  # vectors a list that an inverted file is trained with
_PROBES = 64  # lists that a query looks through
_LINKS, _BEAM = 32, 128  # of an HNSW graph: links a vector, and candidates kept in a search


@dataclass(frozen=True, slots=True)
class Found:
    """Neighbours of q queries, m in all: by query, and of each the nearest first."""

    query: npt.NDArray[np.int64]  # [m], row of the queries
    number: Numbers  # [m]
    similarity: npt.NDArray[np.float32]  # [m]

    @classmethod
    def of(cls, query: Numbers, number: Numbers, similarity: npt.NDArray[np.float32]) -> Self:
        """Sort them; of equally near ones the lower number is first."""
        order = np.lexsort((number, -similarity, query))
        return cls(query[order], number[order], similarity[order])

    @classmethod
    def none(cls) -> Self:
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))

    @property
    def rank(self) -> npt.NDArray[np.int32]:
        """[m], from 0 for each query's nearest."""
        new = np.flatnonzero(np.diff(self.query, prepend=-1))
        counts = np.diff(new, append=len(self.query))
        return (np.arange(len(self.query)) - np.repeat(new, counts)).astype(np.int32)

    def first(self, k: int) -> "Found":
        """The k nearest of each query."""
        keep = self.rank < k
        return Found(self.query[keep], self.number[keep], self.similarity[keep])


def nearest(
    queries: Vectors,
    own: Numbers,
    blocks: Iterable[Block],
    *,
    k: int | None,
    threshold: float | None,
) -> Found:
    """Find the ``k`` nearest of each query, or all, that are at least as alike as ``threshold``.

    ``own`` [q] are the queries' numbers. Memory is that of a block and of what is found.

    Raises InvalidInput where a threshold alone finds more than a table should hold.
    """
    if k is None:
        assert threshold is not None  # noqa: S101 (one of them is given)
        return _all_above(queries, own, blocks, threshold)
    shape = len(queries), k + 1  # a query may be its own nearest
    similarity = np.full(shape, -np.inf, np.float32)
    number = np.full(shape, -1, np.int64)
    for numbers, vectors in blocks:
        near, place = faiss.knn(queries, vectors, k + 1, faiss.METRIC_INNER_PRODUCT)
        names = np.where(place < 0, -1, numbers[place])
        both = np.stack([similarity, near]), np.stack([number, names])
        similarity, number = faiss.merge_knn_results(*both, keep_max=True)
    return _flat(number, similarity, own, threshold).first(k)


class Index:
    """An approximate index, of an inverted file (``ivf``) or a graph (``hnsw``), of half precision.

    Its memory is 2 d bytes a vector, and of a graph its links besides.
    """

    def __init__(
        self, kind: Literal["ivf", "hnsw"], total: int, blocks: Callable[[], Iterable[Block]]
    ) -> None:
        """Read ``blocks`` of ``total`` vectors, twice for an inverted file."""
        lists = max(1, round(4 * total**0.5))
        sample = np.concatenate(list(_sample(blocks(), total, _TRAINING * lists)))
        made = f"IVF{lists},SQfp16" if kind == "ivf" else f"HNSW{_LINKS}_SQfp16"
        self._index = faiss.index_factory(sample.shape[1], made, faiss.METRIC_INNER_PRODUCT)
        if kind == "ivf":
            self._index.by_residual = False  # what a cache holds in half precision is kept as it is
            self._index.nprobe = _PROBES
            self._index.cp.min_points_per_centroid = 1  # or it complains of small ones
        else:
            self._index.hnsw.efSearch = _BEAM
        self._index.train(sample)
        numbers: list[Numbers] = []
        for names, vectors in blocks():
            self._index.add(vectors)
            numbers.append(names)
        self._numbers = np.concatenate(numbers)

    def nearest(
        self, queries: Vectors, own: Numbers, *, k: int | None, threshold: float | None
    ) -> Found:
        """As ``nearest`` does, but that some may be missed."""
        if k is None:
            assert threshold is not None  # noqa: S101 (one of them is given)
            found = _above(self._index, queries, self._numbers, threshold)
            return Found.of(*_without_own(*found, own))
        near, place = self._index.search(queries, k + 1)
        names = np.where(place < 0, -1, self._numbers[place])
        return _flat(names, near, own, threshold).first(k)


def recall(found: Found, exact: Found) -> float:
    """The share of ``exact`` that was found; 1 where there is none."""
    told = set(zip(found.query.tolist(), found.number.tolist(), strict=True))
    right = zip(exact.query.tolist(), exact.number.tolist(), strict=True)
    return (
        sum(each in told for each in right) / max(1, len(exact.query)) if len(exact.query) else 1.0
    )


def _all_above(queries: Vectors, own: Numbers, blocks: Iterable[Block], threshold: float) -> Found:
    parts: list[tuple[Numbers, Numbers, npt.NDArray[np.float32]]] = []
    for numbers, vectors in blocks:
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        parts.append(_without_own(*_above(index, queries, numbers, threshold), own))
        if sum(len(query) for query, _, _ in parts) > _MOST * len(queries):
            raise InvalidInput(
                f"threshold {threshold} gives more than {_MOST} neighbours a pair: raise it, or "
                "give k, how many of each are wanted"
            )
    return Found.of(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _above(
    index: Any, queries: Vectors, numbers: Numbers, threshold: float
) -> tuple[Numbers, Numbers, npt.NDArray[np.float32]]:
    below = float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))  # faiss's is exclusive
    starts, similarity, place = index.range_search(queries, below)
    query = np.repeat(np.arange(len(queries)), np.diff(starts.astype(np.int64)))
    return query, numbers[place], similarity


def _without_own(
    query: Numbers, number: Numbers, similarity: npt.NDArray[np.float32], own: Numbers
) -> tuple[Numbers, Numbers, npt.NDArray[np.float32]]:
    others = number != own[query]
    return query[others], number[others], similarity[others]


def _flat(
    number: Numbers,
    similarity: npt.NDArray[np.float32],
    own: Numbers,
    threshold: float | None,
) -> Found:
    """Neighbours of a row each, [q, k], as a list, but for what is none."""
    keep = (number >= 0) & (number != own[:, None])
    if threshold is not None:
        keep &= similarity >= np.float32(threshold)
    query = np.repeat(np.arange(len(number)), number.shape[1]).reshape(number.shape)
    return Found.of(query[keep], number[keep], similarity[keep])


def _sample(blocks: Iterable[Block], total: int, wanted: int) -> Iterator[Vectors]:
    """Every so manieth vector, until there are about so many."""
    step = max(1, total // wanted)
    first = 0
    for _, vectors in blocks:
        yield vectors[first::step]
        first = (first - len(vectors)) % step
