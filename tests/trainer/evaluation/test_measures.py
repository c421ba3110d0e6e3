"""Recalls against a search by hand."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from rhocache_trainer.evaluation import measures
from rhocache_trainer.evaluation.measures import recalls


@pytest.mark.parametrize("block", [1 << 24, 100, 1])
def test_recalls_equal_a_search_by_hand(monkeypatch: pytest.MonkeyPatch, block: int):
    monkeypatch.setattr(measures, "_BLOCK", block)
    random = torch.Generator().manual_seed(0)
    queries, items = (normalize(torch.randn(n, 8, generator=random), dim=1) for n in (50, 40))
    query_labels = torch.randint(12, (50,), generator=random)
    item_labels = torch.cat([torch.arange(12), torch.randint(12, (28,), generator=random)])
    found = recalls(queries, items, query_labels, item_labels)
    order = np.argsort(-(queries @ items.T).numpy(), axis=1)
    for k in (1, 5, 10):
        hits = [
            int(label) in item_labels[nearest[:k]].tolist()
            for label, nearest in zip(query_labels, order, strict=True)
        ]
        assert found[k] == pytest.approx(np.mean(hits))


def test_features_that_tell_nothing_apart_find_nothing():
    features = normalize(torch.ones(20, 4), dim=1)
    labels = torch.arange(20)
    assert recalls(features, features, labels, labels) == {1: 0.0, 5: 0.0, 10: 0.0}


def test_recalls_with_several_right_items():
    items = torch.eye(3)
    queries = torch.tensor([[0.9, 0.8, 0.1], [0.9, 0.8, 0.1]])
    labels, item_labels = torch.tensor([0, 1]), torch.tensor([1, 0, 0])
    assert recalls(queries, items, labels, item_labels) == {1: 0.5, 5: 1.0, 10: 1.0}
