"""An evaluation transform in two halves: pictures to bytes on a CPU, bytes to numbers anywhere."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, InterpolationMode
from torchvision.transforms.functional import pil_to_tensor

from rhocache_schemas.dataset.augmentation import View
from rhocache_schemas.dataset.view import render


class Preprocess:
    """open_clip's transform, cut before its last two steps (``ToTensor`` and ``Normalize``).

    The first half's bytes are a quarter of the numbers, in memory and on their way to a device.
    """

    def __init__(self, transform: Compose) -> None:
        *resize, _, normalize = transform.transforms
        modes = (getattr(step, "interpolation", None) for step in resize)
        mode = next(filter(None, modes), InterpolationMode.BICUBIC)
        self._resample = Image.Resampling[mode.name]
        self._resize = Compose(resize)
        self._mean = torch.tensor(normalize.mean).view(-1, 1, 1)
        self._std = torch.tensor(normalize.std).view(-1, 1, 1)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Return what open_clip makes of a preprocessing config, as a fingerprint has it."""
        transform: Any = image_transform_v2(PreprocessCfg(**config), is_train=False)
        return cls(transform)

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the picture as uint8 [3, height, width], at the size that the reference takes."""
        resized: Any = self._resize(image)
        return pil_to_tensor(resized)

    def show(self, image: Image.Image, view: View, size: tuple[int, int]) -> Tensor:
        """Return another view of the picture as uint8 [3, height, width], of this ``size``."""
        return pil_to_tensor(render(image, view, size, self._resample))

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return float32 [B, 3, height, width] of uint8, on the device where the pixels are."""
        mean, std = self._mean.to(pixels.device), self._std.to(pixels.device)
        return pixels.float().div(255).sub_(mean).div_(std)
