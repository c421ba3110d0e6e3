"""Shows training the very views that the references saw, which their caches hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from pydantic import Field

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.dataset.augmentation import ViewDraws
from rhocache_schemas.dataset.view import render
from rhocache_schemas.documents import Strict
from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.views import Views
from rhocache_trainer.data.augment import pixels
from rhocache_trainer.settings import Positive


class ReplayConfig(Strict):
    """Which of a cache's views of an image is looked at when."""

    order: Annotated[
        Literal["auto", "cycle", "random", "none"],
        Field(
            description="cycle: another each epoch, in turn; random: drawn by the seed; none: "
            "images are augmented and steered by view 0; auto: cycle where the cache has several, "
            "else none"
        ),
    ] = "auto"
    views: Annotated[
        Positive | None, Field(description="the first so many of the cache's; null: all")
    ] = None


@dataclass(frozen=True, slots=True)
class Replay:
    """Chooses views, and shows them at the size that the trained model takes."""

    views: Views  # those that the caches hold
    count: int  # of them, that are used
    order: Literal["cycle", "random"]
    seed: int
    size: tuple[int, int]  # height, width
    # The references' evaluation transform at that size, up to a picture: view 0.
    evaluate: Callable[[Image.Image], Image.Image]

    def choose(self, epoch: int, shard: str, key: str) -> int:
        """Return the number of the view for a pair's visit in this epoch.

        Pairs begin at different ones, so that a batch has views of all numbers.
        """
        if self.order == "random":
            return int(ViewDraws(self.seed, shard, key, epoch).random() * self.count)
        first = int(ViewDraws(self.seed, shard, key, 0).random() * self.count)
        return (first + epoch) % self.count

    def show(self, image: Image.Image, view: int, shard: str, key: str) -> torch.Tensor:
        """Return a view of a pair's picture, uint8 [3, height, width]."""
        if view == 0:
            return pixels(self.evaluate(image))
        return pixels(render(image, self.views.view(view, shard, key, *image.size), self.size))


def replay_of(
    config: ReplayConfig, manifests: Sequence[Manifest], size: tuple[int, int], seed: int
) -> Replay | None:
    """Return the replay of what these caches hold, or None where images are augmented instead.

    Raises InvalidInput for views that they lack, and for caches of different views.
    """
    if not manifests and config != ReplayConfig():
        raise InvalidInput("replay shows a cache's views of the images: set cache to its location")
    if not manifests or config.order == "none":
        return None
    held = [manifest.fingerprint.drawn for manifest in manifests]
    if any(each != held[0] for each in held):
        raise InvalidInput(
            "the caches hold different views of the images: score them with the same --views and "
            "--view-seed, or set replay.order=none to augment images anew"
        )
    views = held[0]
    if config.order == "auto" and config.views is None and views.count == 1:
        return None
    count = config.views or views.count
    if count > views.count:
        raise InvalidInput(
            f"replay.views={count}, but the cache of {manifests[0].dataset} holds {views.count} "
            f"view{'s' * (views.count > 1)} of each image: score it with --views {count}"
        )
    order = "random" if config.order == "random" else "cycle"
    evaluate = _evaluation(manifests[0].fingerprint.preprocessing, size)
    return Replay(views, count, order, seed, size, evaluate)


def _evaluation(
    preprocessing: dict[str, Any], size: tuple[int, int]
) -> Callable[[Image.Image], Image.Image]:
    names = "interpolation", "resize_mode", "fill_color"
    given = {name: preprocessing[name] for name in names if name in preprocessing}
    transform: Any = image_transform_v2(PreprocessCfg(size=size, **given), is_train=False)
    transform.transforms = transform.transforms[:-2]  # which make numbers of it
    return transform
