"""Shows a picture to references in each of its views."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from rhocache_schemas.job.views import Views
from rhocache_workers.reference.preprocess import Preprocess

PairName = tuple[str, str]  # shard and key
_ONE = Views()


class Show(Protocol):
    @property
    def views(self) -> Views: ...

    def __call__(self, name: PairName, image: Image.Image) -> Tensor:
        """Return, as uint8, all that is wanted of the pair's picture, which was decoded once."""
        ...


@dataclass(frozen=True, slots=True)
class Viewer:
    preprocess: Preprocess
    views: Views = _ONE

    def __call__(self, name: PairName, image: Image.Image) -> Tensor:
        """Return uint8 [V, 3, height, width]."""
        own = self.preprocess(image)
        shown, (_, height, width) = [own], own.shape
        if self.views.count > 1:
            image = image.convert("RGB")
        for number in range(1, self.views.count):
            view = self.views.view(number, *name, *image.size)
            shown.append(self.preprocess.show(image, view, (height, width)))
        return torch.stack(shown)


class SharedViewer:
    """Shows a picture to several references, which take it in sizes or ways of their own."""

    def __init__(self, viewers: Mapping[str, Viewer]) -> None:
        self.views = next(iter(viewers.values())).views
        self._viewers = viewers
        blank = Image.new("RGB", (64, 64))
        self._parts: dict[str, tuple[slice, torch.Size]] = {}
        start = 0
        for way, viewer in viewers.items():
            shape = viewer(("", ""), blank).shape
            self._parts[way] = slice(start, start + shape.numel()), shape
            start += shape.numel()

    def __call__(self, name: PairName, image: Image.Image) -> Tensor:
        """Return uint8 [n], which ``own`` takes apart."""
        return torch.cat([viewer(name, image).flatten() for viewer in self._viewers.values()])

    def own(self, way: str, shown: Tensor) -> Tensor:
        """Return uint8 [V, 3, height, width], as the viewer of this name has it."""
        part, shape = self._parts[way]
        return shown[part].view(shape)
