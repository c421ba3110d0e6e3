"""negCLIPLoss and NormSim against their definitions, spelled out."""

import numpy as np
import pytest
from scipy.special import logsumexp

from rhocache_workers.over_cache.selection.draws import permutation
from rhocache_workers.over_cache.selection.scores import neg_clip_loss, norm_sim

N, D, TAU = 50, 8, 0.05


def unit(seed: int, n: int = N) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((n, D))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


def contrastive(cosines: np.ndarray, i: int) -> float:
    """Pair i's loss in a batch with this matrix, images by texts."""
    logits = cosines / TAU
    of_image = logsumexp(logits[i]) - logits[i, i]
    of_text = logsumexp(logits[:, i]) - logits[i, i]
    return (of_image + of_text) / 2


@pytest.mark.parametrize("tile", [7, 2048])
@pytest.mark.parametrize(("batch", "parts"), [(N, 1), (1000, 1), (20, 3)])
def test_neg_clip_loss_is_the_mean_loss_in_its_batches_times_minus_tau(
    monkeypatch: pytest.MonkeyPatch, tile: int, batch: int, parts: int
) -> None:
    monkeypatch.setattr("rhocache_workers.over_cache.selection.scores._TILE", tile)
    stored, chosen = (unit(0, 2 * N), unit(1, 2 * N)), np.arange(1, 2 * N, 2)
    found = neg_clip_loss(*stored, chosen, tau=TAU, batch=batch, batches=2, seed=3)
    image, text = (each[chosen].astype(float) for each in stored)
    cosines = image @ text.T
    expected = np.zeros(N)
    for number in range(2):
        for rows in np.array_split(permutation(N, 3, number), parts):
            block = cosines[np.ix_(rows, rows)]
            for place, row in enumerate(rows):
                expected[row] -= TAU * contrastive(block, place) / 2
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_norm_sim_is_the_norm_of_the_cosines_with_all_targets() -> None:
    image, target = unit(0), unit(1, 33)
    cosines = image.astype(float) @ target.astype(float).T
    for norm in ("2", "inf"):
        found = norm_sim(image, np.arange(3, N), [target[:10], target[10:]], norm)
        expected = np.linalg.norm(cosines, float(norm), axis=1)[3:]
        np.testing.assert_allclose(found, expected, atol=1e-6)
