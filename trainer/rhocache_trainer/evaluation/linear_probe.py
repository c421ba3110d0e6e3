"""A linear probe: multinomial logistic regression on frozen image features.

The protocol of CLIP (Radford et al. 2021, appendix A.3): full-batch L-BFGS, and the L2 strength
that is most accurate on a held-out part of the training images (where several are: the one of least
cross-entropy there).
"""

import torch
import xxhash
from torch import Tensor
from torch.nn.functional import cross_entropy

from rhocache_schemas.documents import Strict
from rhocache_schemas.errors import DatasetError
from rhocache_trainer.evaluation.measures import EmbeddedImages, accuracies

STRENGTHS = tuple(10.0**power for power in range(0, -8, -1))  # strongest first

_TEST_SHARE = _HELD_OUT_SHARE = 0.2
_STEPS = 1000
_GRADIENT = 1e-7  # largest entry at which a minimum counts as found


class LinearProbe(Strict):
    """Accuracy of a linear classifier on images that it was not trained on."""

    train_images: int
    images: int  # tested
    classes: list[str]  # of the training images
    strength: float  # of L2, see ``fit``
    accuracy: float
    mean_class_accuracy: float


def linear_probe(test: EmbeddedImages, train: EmbeddedImages | None = None) -> LinearProbe:
    """Train on the images of ``train`` that have a class, and test on those of ``test``.

    Without ``train`` a fifth of ``test`` is tested on, and the rest trained on. Which pairs these
    are follows from their shards and keys alone. A test image of a class that was not trained on
    counts as wrong.

    Raises DatasetError when there are too few images with a class.
    """
    images = test if train is None else train
    train_rows, test_rows = _labelled(images), _labelled(test)
    if train is None:
        train_rows, test_rows = _split(test, test_rows, "test", _TEST_SHARE)
    fit_rows, held_rows = _split(images, train_rows, "held out", _HELD_OUT_SHARE)
    names = sorted({str(images.classes[row]) for row in train_rows})
    if not (test_rows and fit_rows and held_rows) or len(names) < 2:
        raise DatasetError(
            f"too few images for a linear probe: {len(train_rows)} to train on, of {len(names)} "
            f"classes, and {len(test_rows)} to test"
        )
    features, truth = images.features.double(), _numbers(images, names)
    scores: dict[float, tuple[float, float]] = {}
    model = None
    for strength in STRENGTHS:
        model = fit(features[fit_rows], truth[fit_rows], len(names), strength, model)
        logits, held_truth = predict(features[held_rows], *model), truth[held_rows]
        accuracy, _ = accuracies(logits.argmax(dim=1), held_truth)
        scores[strength] = accuracy, -float(cross_entropy(logits, held_truth))
    best = max(scores, key=scores.__getitem__)
    model = fit(features[train_rows], truth[train_rows], len(names), best, model)
    guess = predict(test.features[test_rows].double(), *model).argmax(dim=1)
    unseen = sorted({str(test.classes[row]) for row in test_rows} - set(names))
    test_truth = _numbers(test, names + unseen)[test_rows]
    accuracy, mean_class_accuracy = accuracies(guess, test_truth)
    return LinearProbe(
        train_images=len(train_rows),
        images=len(test_rows),
        classes=names,
        strength=best,
        accuracy=accuracy,
        mean_class_accuracy=mean_class_accuracy,
    )


def fit(
    features: Tensor,
    truth: Tensor,
    classes: int,
    strength: float,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Minimise mean cross-entropy + strength/2 · Σ weight², and leave the biases free.

    Args:
        features: float64 [n, d].
        truth: int64 [n], from 0 to classes − 1.
        start: weight and bias to begin with; zeros when None. The minimum is the same.

    Returns:
        Weight [d, classes] and bias [classes].
    """
    weight, bias = start or (
        features.new_zeros(features.shape[1], classes),
        features.new_zeros(classes),
    )
    # The biases make up for a shift, so the minimum is the same, but features that all point the
    # same way, as CLIP's do, would take many more steps to it.
    centre = features.mean(dim=0)
    features = features - centre
    weight, bias = weight.clone().requires_grad_(), (bias + centre @ weight).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_STEPS,
        tolerance_grad=_GRADIENT,
        tolerance_change=0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(predict(features, weight, bias), truth)
        value = value + strength / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType] (torch annotates a float)
    weight, bias = weight.detach(), bias.detach()
    return weight, bias - centre @ weight


def predict(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Logits, [n, classes]."""
    return features @ weight + bias


def _labelled(images: EmbeddedImages) -> list[int]:
    return [row for row, name in enumerate(images.classes) if name is not None]


def _numbers(images: EmbeddedImages, names: list[str]) -> Tensor:
    """The number of each image's class among ``names``, −1 where it has none."""
    numbers = {name: number for number, name in enumerate(names)}
    return torch.tensor(
        [numbers.get(name or "", -1) for name in images.classes], device=images.features.device
    )


def _split(
    images: EmbeddedImages, rows: list[int], purpose: str, share: float
) -> tuple[list[int], list[int]]:
    """Set a share of the rows apart, by a hash of each one's place: the rest, and the share."""
    parts: tuple[list[int], list[int]] = ([], [])
    for row in rows:
        shard, key = images.places[row]
        drawn = xxhash.xxh3_64_intdigest(f"{purpose}\0{shard}\0{key}".encode()) / 2**64
        parts[drawn < share].append(row)
    return parts
