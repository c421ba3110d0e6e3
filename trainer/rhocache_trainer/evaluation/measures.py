"""The pairs as a CLIP sees them, and what is measured on them: retrieval and zero-shot accuracy."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rhocache_schemas.documents import Strict

RANKS = (1, 5, 10)

_BLOCK = 1 << 24  # similarities that are held at once

# Returns a unit vector for each class name: [d, classes].
Classifier = Callable[[list[str]], Tensor]


@dataclass(frozen=True, slots=True)
class EmbeddedImages:
    """The images of n usable pairs, in the order of shards and of pairs in them."""

    features: Tensor  # float32 [n, d], unit vectors
    captions: Sequence[Hashable]  # [n], equal where two pairs have the same caption
    classes: Sequence[str | None]  # [n]
    places: Sequence[tuple[str, str]]  # [n], (shard, key)
    skipped: int  # pairs that could not be used


@dataclass(frozen=True, slots=True)
class EmbeddedCaptions:
    """The m different captions of some pairs."""

    features: Tensor  # float32 [m, d], unit vectors
    captions: Sequence[Hashable]  # [m]


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


class ZeroShot(Strict):
    """Accuracy of naming an image's class by the prompt that is nearest to it."""

    images: int
    classes: list[str]
    accuracy: float
    mean_class_accuracy: float  # every class counts the same, however many images it has


def zero_shot(images: EmbeddedImages, classifier: Classifier) -> ZeroShot:
    """Classify the images that have a class, among the classes that they have."""
    rows = [row for row, name in enumerate(images.classes) if name is not None]
    names = sorted({name for name in images.classes if name is not None})
    numbers = {name: number for number, name in enumerate(names)}
    device = images.features.device
    truth = torch.tensor([numbers[str(images.classes[row])] for row in rows], device=device)
    guess = (images.features[rows] @ classifier(names).to(device)).argmax(dim=1)
    accuracy, mean_class_accuracy = accuracies(guess, truth)
    return ZeroShot(
        images=len(rows),
        classes=names,
        accuracy=accuracy,
        mean_class_accuracy=mean_class_accuracy,
    )


def accuracies(guess: Tensor, truth: Tensor) -> tuple[float, float]:
    """Share of right guesses, over the images and as the mean over the classes that they have.

    Args:
        guess: int64 [n], classes' numbers.
        truth: int64 [n], with n ≥ 1.
    """
    right = (guess == truth).double()
    return float(right.mean()), float(class_accuracies(guess, truth).mean())


def class_accuracies(guess: Tensor, truth: Tensor) -> Tensor:
    """Share of right guesses in each class that ``truth`` has, float64 [classes], by number.

    Args: as of ``accuracies``.
    """
    right = (guess == truth).double()
    return torch.stack([right[truth == number].mean() for number in truth.unique()])
