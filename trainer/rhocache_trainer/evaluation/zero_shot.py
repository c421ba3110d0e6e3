"""Zero-shot classification: naming an image's class by the prompts that are nearest to it."""

from collections.abc import Callable

import torch
from torch import Tensor

from rhocache_schemas.documents import Strict
from rhocache_trainer.evaluation.features import EmbeddedImages

# Gives the classes of these names a unit vector each: [d, classes].
Classifier = Callable[[list[str]], Tensor]


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
    by_class = [right[truth == number].mean() for number in truth.unique()]
    return float(right.mean()), float(torch.stack(by_class).mean())
