"""Random crops and flips as pure functions of where the randomness comes from.

open_clip's own training transform draws from the process's random state, so that decoding in
threads, or resuming in the middle of an epoch, would change what it gives.
"""

import math
from random import Random

import numpy as np
import torch
from PIL import Image

from rhocache_trainer.data.config import Augmentation


def pair_random(seed: int, epoch: int, shard: str, key: str) -> Random:
    """The randomness of one pair in one epoch, equal on every machine."""
    return Random(f"{seed}/{epoch}/{shard}/{key}")  # noqa: S311 (not for secrets)


def crop_box(
    width: int, height: int, augmentation: Augmentation, random: Random
) -> tuple[float, float, float, float]:
    """Left, upper, right and lower edge, in pixels, of a crop with a random area and shape.

    The area is a share of the image within ``scale`` and width/height lies within ``ratio`` (drawn
    on a log scale), both cut where the image ends: torchvision's RandomResizedCrop otherwise.
    """
    area = width * height * random.uniform(*augmentation.scale)
    ratio = math.exp(random.uniform(*map(math.log, augmentation.ratio)))
    crop_width = min(width, math.sqrt(area * ratio))
    crop_height = min(height, math.sqrt(area / ratio))
    left = random.uniform(0, width - crop_width)
    upper = random.uniform(0, height - crop_height)
    return left, upper, left + crop_width, upper + crop_height


def augment(
    image: Image.Image, size: tuple[int, int], augmentation: Augmentation, random: Random
) -> torch.Tensor:
    """Crop, resize to ``size`` (height, width) and perhaps mirror: uint8 [3, height, width]."""
    box = crop_box(*image.size, augmentation, random)
    height, width = size
    image = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC, box=box)
    if random.random() < augmentation.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
