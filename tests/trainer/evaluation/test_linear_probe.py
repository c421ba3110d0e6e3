"""The probe's minimum against scikit-learn's, and against the conditions of a minimum."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from rhocache_schemas.errors import DatasetError
from rhocache_trainer.evaluation.linear_probe import STRENGTHS, fit, linear_probe, predict
from rhocache_trainer.evaluation.measures import EmbeddedImages

N, D, CLASSES = 200, 8, 5


@pytest.fixture
def clusters() -> tuple[Tensor, Tensor]:
    """Unit features around a centre for each class, which overlap."""
    random = torch.Generator().manual_seed(0)
    truth = torch.randint(CLASSES, (N,), generator=random)
    centres = torch.randn(CLASSES, D, generator=random)
    noise = torch.randn(N, D, generator=random)
    return normalize(centres[truth] + noise, dim=1).double(), truth


def made(features: Tensor, classes: list[str | None], shard: str = "0.tar") -> EmbeddedImages:
    places = [(shard, f"{row:04}") for row in range(len(classes))]
    return EmbeddedImages(features.float(), [""] * len(classes), classes, places, 0)


@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-4])
def test_the_minimum_is_scikit_learns(clusters: tuple[Tensor, Tensor], strength: float):
    features, truth = clusters
    weight, bias = fit(features, truth, CLASSES, strength)
    solver = LogisticRegression(C=1 / (N * strength), tol=1e-10, max_iter=100_000)
    solver.fit(features.numpy(), truth.numpy())
    np.testing.assert_allclose(weight.T, solver.coef_, atol=1e-3)  # gradient's 1e-7 / strength
    np.testing.assert_allclose(bias - bias.mean(), solver.intercept_, atol=1e-3)
    probability = predict(features, weight, bias).softmax(dim=1)
    np.testing.assert_allclose(probability, solver.predict_proba(features.numpy()), atol=1e-5)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_gradient_at_the_minimum_is_zero(clusters: tuple[Tensor, Tensor], strength: float):
    """In closed form: the residuals' mean outer product with the features, plus the L2 term."""
    features, truth = clusters
    weight, bias = fit(features, truth, CLASSES, strength)
    residual = (features @ weight + bias).softmax(1) - one_hot(truth, CLASSES)
    assert (features.T @ residual / N + strength * weight).abs().max() < 1e-6
    assert residual.mean(0).abs().max() < 1e-6


def test_a_start_changes_nothing(clusters: tuple[Tensor, Tensor]):
    cold, _ = fit(*clusters, CLASSES, 1e-3)
    warm, _ = fit(*clusters, CLASSES, 1e-3, fit(*clusters, CLASSES, 1.0))
    torch.testing.assert_close(cold, warm, atol=1e-4, rtol=0)


def test_classes_that_lie_apart_are_told_apart():
    truth = torch.arange(100) % 4
    names = [f"class {number}" for number in truth.tolist()]
    probe = linear_probe(made(torch.eye(4)[truth], names))
    assert (probe.accuracy, probe.mean_class_accuracy) == (1.0, 1.0)
    assert probe.train_images + probe.images == 100
    assert 10 < probe.images < 30


def test_the_split_follows_the_places_and_not_the_order(clusters: tuple[Tensor, Tensor]):
    features, truth = clusters
    names = [str(number) for number in truth.tolist()]
    images = made(features, names)
    turned = EmbeddedImages(
        images.features.flip(0), images.captions, names[::-1], images.places[::-1], 0
    )
    first, second = linear_probe(images), linear_probe(turned)
    assert first == second


def test_pairs_without_a_class_take_no_part(clusters: tuple[Tensor, Tensor]):
    features, truth = clusters
    names: list[str | None] = [str(number) for number in truth.tolist()]
    train = made(features, [None if row % 2 else name for row, name in enumerate(names)])
    test = made(features[:10], [*names[:4], None, None, "unseen", *names[7:10]], "1.tar")
    probe = linear_probe(test, train)
    assert (probe.train_images, probe.images) == (N // 2, 8)
    assert probe.accuracy <= 7 / 8  # a class that was not trained on counts as wrong
    assert "unseen" not in probe.classes


def test_too_few_images(clusters: tuple[Tensor, Tensor]):
    features, _ = clusters
    for names in ([], ["a"], ["a", "b"], ["a"] * 50):
        with pytest.raises(DatasetError, match="too few images"):
            linear_probe(made(features[: len(names)], names))


def test_each_class_that_was_not_trained_on_counts_in_the_mean():
    """Half of the four tested classes are unseen, and the others are told apart."""
    truth = torch.arange(80) % 4
    names = ["ab"[number % 2] for number in range(80)]
    train = made(torch.eye(4)[truth % 2], names)
    test = made(torch.eye(4)[:4], ["a", "b", "c", "d"], "1.tar")
    assert linear_probe(test, train).mean_class_accuracy == 0.5
