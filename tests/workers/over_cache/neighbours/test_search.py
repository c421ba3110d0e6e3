"""Searches against the whole matrix of inner products."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest

from rhocache_schemas.errors import InvalidInput
from rhocache_workers.over_cache.neighbours.search import Block, Found, Index, nearest, recall

N, D = 600, 16
NUMBERS = np.random.default_rng(1).permutation(2 * N)[:N]  # with gaps, in no order


def unit(seed: int, n: int = N) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def blocks(vectors: np.ndarray, sizes: Iterable[int]) -> list[Block]:
    ends = np.cumsum([0, *sizes])
    assert ends[-1] == len(vectors)
    return [(NUMBERS[a:b], vectors[a:b]) for a, b in pairwise(ends)]


def by_hand(queries: np.ndarray, base: np.ndarray, k: int, least: float) -> list[list[int]]:
    """Of each query the numbers of the k nearest others, by its whole row."""
    cosines = queries.astype(np.float64) @ base.T.astype(np.float64)
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1)[:, :k]
    return [
        [int(NUMBERS[place]) for place in row if cosines[query, place] >= least]
        for query, row in enumerate(order)
    ]


def as_lists(found: Found, queries: int) -> list[list[int]]:
    lists: list[list[int]] = [[] for _ in range(queries)]
    for query, number in zip(found.query.tolist(), found.number.tolist(), strict=True):
        lists[query].append(number)
    return lists


@pytest.mark.parametrize("sizes", [[N], [1, 250, 7, 342]])
@pytest.mark.parametrize(("k", "threshold"), [(5, None), (5, 0.6), (None, 0.6)])
def test_exact_is_what_the_whole_matrix_says(
    sizes: list[int], k: int | None, threshold: float | None
) -> None:
    vectors = unit(0)
    found = nearest(vectors, NUMBERS, blocks(vectors, sizes), k=k, threshold=threshold)
    expected = by_hand(vectors, vectors, k or N, -2 if threshold is None else threshold)
    assert as_lists(found, N) == expected
    cosines = vectors @ vectors.T
    place = {int(number): row for row, number in enumerate(NUMBERS)}
    columns = [place[number] for number in found.number.tolist()]
    np.testing.assert_allclose(found.similarity, cosines[found.query, columns], atol=1e-6)
    assert (found.rank == np.concatenate([np.arange(len(row)) for row in expected])).all()


def test_across_images_and_texts_a_pairs_own_is_not_among_them() -> None:
    images = unit(0)
    texts = 0.8 * images + 0.6 * unit(1)  # the own is mostly the nearest
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    found = nearest(images, NUMBERS, blocks(texts, [300, 300]), k=3, threshold=None)
    assert as_lists(found, N) == by_hand(images, texts, 3, -2)


def test_all_of_fewer_than_k_are_found() -> None:
    vectors = unit(0)[:4]
    found = nearest(vectors, NUMBERS[:4], [(NUMBERS[:4], vectors)], k=10, threshold=None)
    assert [len(each) for each in as_lists(found, 4)] == [3] * 4


def test_of_equal_vectors_the_lower_number_is_first() -> None:
    vectors = np.repeat(unit(0, 2), 3, axis=0)
    numbers = np.array([50, 40, 30, 20, 10, 0])
    found = nearest(vectors, numbers, [(numbers, vectors)], k=2, threshold=None)
    assert as_lists(found, 6)[:3] == [[30, 40], [30, 50], [40, 50]]


def test_a_threshold_that_finds_nearly_all_is_refused() -> None:
    vectors = np.repeat(unit(0, 1), 1100, axis=0)
    numbers = np.arange(1100)
    with pytest.raises(InvalidInput, match=r"threshold 0.5 gives more than 1000 neighbours a pair"):
        nearest(vectors, numbers, [(numbers, vectors)], k=None, threshold=0.5)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
@pytest.mark.parametrize(("k", "threshold"), [(5, None), (5, 0.6), (None, 0.6)])
def test_an_index_finds_most_of_it(kind: str, k: int | None, threshold: float | None) -> None:
    vectors = unit(0).astype(np.float16).astype(np.float32)
    parts = blocks(vectors, [250, 350])
    index = Index(kind, N, lambda: parts)
    found = index.nearest(vectors, NUMBERS, k=k, threshold=threshold)
    exact = nearest(vectors, NUMBERS, parts, k=k, threshold=threshold)
    assert recall(found, exact) > 0.95
    told = set(zip(exact.query.tolist(), exact.number.tolist(), strict=True))
    mine = list(zip(found.query.tolist(), found.number.tolist(), strict=True))
    assert recall(found, exact) == len(told & set(mine)) / len(told)
    assert not (found.number == NUMBERS[found.query]).any()
    if k is None:
        assert set(mine) <= told
        assert (found.similarity >= 0.6).all()


def test_recall_of_nothing_to_be_found_is_whole() -> None:
    assert recall(Found.none(), Found.none()) == 1.0
