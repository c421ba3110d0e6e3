"""Random crops and flips as pure functions of where the randomness comes from.

open_clip's own training transform draws from the process's random state, so that decoding in
threads, or resuming in the middle of an epoch, would change what it gives.
"""

from random import Random

import numpy as np
import torch
from PIL import Image

from rhocache_schemas.dataset.augmentation import Augmentation, draw_view
from rhocache_schemas.dataset.view import render


def pair_random(seed: int, epoch: int, shard: str, key: str) -> Random:
    """The randomness of one pair in one epoch, equal on every machine."""
    return Random(f"{seed}/{epoch}/{shard}/{key}")  # noqa: S311 (not for secrets)


def augment(
    image: Image.Image, size: tuple[int, int], augmentation: Augmentation, random: Random
) -> torch.Tensor:
    """Return a view drawn at random, at ``size`` (height, width): uint8 [3, height, width]."""
    return pixels(render(image, draw_view(*image.size, augmentation, random), size))


def pixels(image: Image.Image) -> torch.Tensor:
    """Return an RGB picture as uint8 [3, height, width]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
