"""Retrieval: how often the right item is among the most similar ones."""

import torch
from torch import Tensor

RANKS = (1, 5, 10)

_BLOCK = 1 << 24  # similarities that are held at once


def recalls(
    queries: Tensor, items: Tensor, query_labels: Tensor, item_labels: Tensor
) -> dict[int, float]:
    """Share of the queries with a right item among the k most similar, for k = 1, 5, 10.

    An item is right for a query when their labels are equal. Where a wrong item is as near as the
    best right one, the wrong one is taken to come first. Memory: O(items), whatever the number of
    queries.

    Args:
        queries: [q, d], unit vectors.
        items: [m, d], unit vectors.
        query_labels: int64 [q]; each is the label of at least one item.
        item_labels: int64 [m].
    """
    rows = max(1, _BLOCK // len(items))
    before = torch.cat(
        [
            _wrong_before(block @ items.T, labels[:, None] == item_labels)
            for block, labels in zip(queries.split(rows), query_labels.split(rows), strict=True)
        ]
    )
    return {k: float((before < k).double().mean()) for k in RANKS}


def _wrong_before(similarity: Tensor, right: Tensor) -> Tensor:
    """How many wrong items are at least as near as the nearest right one, [queries]."""
    best = similarity.masked_fill(~right, -torch.inf).amax(dim=1)
    return ((similarity >= best[:, None]) & ~right).sum(dim=1)
