"""Caps against a search for λ, and clusters of images that lie in clusters."""

import numpy as np
import pytest
from scipy.optimize import brentq

from rhocache_workers.over_cache.selection.clusters import assign, balance, caps


@pytest.mark.parametrize("exponent", [0.0, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("size", [1, 7, 100, 600, 1499, 1500, 9999])
def test_caps_are_those_of_one_scale_for_all_clusters(size: int, exponent: float) -> None:
    sizes = np.array([0, 1, 1000, 3, 40, 40, 0, 416])
    found = caps(sizes, size, exponent)
    assert found.sum() == min(size, sizes.sum())
    assert ((found >= 0) & (found <= sizes)).all()
    share = np.where(sizes > 0, sizes.astype(float) ** exponent, 0)
    wanted = min(size, 1500 - 1e-9)
    scale = brentq(lambda scale: np.minimum(sizes, scale * share).sum() - wanted, 0, 2000)
    assert (np.abs(found - np.minimum(sizes, scale * share)) < 1 + 1e-6).all()


def test_a_balanced_choice_has_as_many_of_each_cluster_as_its_cap() -> None:
    cluster = np.random.default_rng(0).choice(5, 1000, p=[0.6, 0.2, 0.1, 0.06, 0.04])
    keep = balance(cluster, 300, 0.0, seed=1)
    assert np.bincount(cluster[keep]).tolist() == caps(np.bincount(cluster), 300, 0.0).tolist()
    assert (keep == balance(cluster, 300, 0.0, seed=1)).all()
    assert (keep != balance(cluster, 300, 0.0, seed=2)).any()


def test_images_that_lie_in_clusters_are_found_in_them() -> None:
    random = np.random.default_rng(0)
    centres = np.linalg.qr(random.standard_normal((8, 8)))[0]
    true = random.integers(0, 8, 500)
    image = centres[true] + 0.05 * random.standard_normal((500, 8))
    image = (image / np.linalg.norm(image, axis=1, keepdims=True)).astype(np.float16)
    chosen = np.arange(1, 500, 3)
    found = assign(image, chosen, 8, seed=0)
    assert (assign(image, chosen, 8, seed=0) == found).all()
    both = {(a, b) for a, b in zip(true[chosen].tolist(), found.tolist(), strict=True)}
    assert len(both) == len(set(found.tolist())) == 8
