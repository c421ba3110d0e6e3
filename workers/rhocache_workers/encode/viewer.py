"""Shows a picture to the reference in each of its views."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from rhocache_schemas.job.views import Views
from rhocache_workers.reference.preprocess import Preprocess

PairName = tuple[str, str]  # shard and key
_ONE = Views()


@dataclass(frozen=True, slots=True)
class Viewer:
    preprocess: Preprocess
    views: Views = _ONE

    def __call__(self, name: PairName, image: Image.Image) -> Tensor:
        """Return uint8 [V, 3, height, width] of the pair's picture, which was decoded once."""
        own = self.preprocess(image)
        shown, (_, height, width) = [own], own.shape
        if self.views.count > 1:
            image = image.convert("RGB")
        for number in range(1, self.views.count):
            view = self.views.view(number, *name, *image.size)
            shown.append(self.preprocess.show(image, view, (height, width)))
        return torch.stack(shown)
