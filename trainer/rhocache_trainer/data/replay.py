"""Shows training the very views and captions that the references saw, which caches hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lcm
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
    """Which of a cache's views of an image, and of a pair's captions, is looked at when."""

    order: Annotated[
        Literal["auto", "cycle", "random", "none"],
        Field(
            description="cycle: another each epoch, in turn; random: drawn by the seed; none: "
            "images are augmented and steered by view 0, and captions are the first; auto: cycle "
            "where there are several"
        ),
    ] = "auto"
    views: Annotated[
        Positive | None, Field(description="the first so many of the cache's; null: all")
    ] = None
    captions: Annotated[
        Positive | None, Field(description="the first so many of each pair's; null: all")
    ] = None


_Order = Literal["cycle", "random", "first"]
_ORDERS: dict[str, _Order] = {
    "auto": "cycle",
    "cycle": "cycle",
    "random": "random",
    "none": "first",
}


@dataclass(frozen=True, slots=True)
class Turns:
    """Chooses which view of an image and which caption of a pair is looked at when."""

    seed: int
    order: _Order = "cycle"
    views: int = 1  # that are used
    captions: int | None = None  # that are used at most; None: all

    def choose(self, epoch: int, shard: str, key: str, captions: int) -> tuple[int, int]:
        """Return the numbers of the view and of the caption for a pair's visit in this epoch.

        Pairs begin at different ones, so that a batch has views of all numbers. Taken in turn,
        each view meets each caption.
        """
        captions = min(captions, self.captions or captions)
        if self.order == "first" or max(self.views, captions) == 1:
            return 0, 0
        drawn = ViewDraws(self.seed, shard, key, epoch if self.order == "random" else 0)
        view, caption = int(drawn.random() * self.views), int(drawn.random() * captions)
        if self.order == "random":
            return view, caption
        met = epoch // lcm(self.views, captions)  # times that the two have come round together
        return (view + epoch) % self.views, (caption + epoch + met) % captions


@dataclass(frozen=True, slots=True)
class Replay:
    """Shows a cache's views at the size that the trained model takes."""

    views: Views  # those that the caches hold
    count: int  # of them, that are used
    size: tuple[int, int]  # height, width
    # The references' evaluation transform at that size, up to a picture: view 0.
    evaluate: Callable[[Image.Image], Image.Image]

    def show(self, image: Image.Image, view: int, shard: str, key: str) -> torch.Tensor:
        """Return a view of a pair's picture, uint8 [3, height, width]."""
        if view == 0:
            return pixels(self.evaluate(image))
        return pixels(render(image, self.views.view(view, shard, key, *image.size), self.size))


def turns_of(config: ReplayConfig, replay: Replay | None, seed: int) -> Turns:
    views = 1 if replay is None else replay.count
    return Turns(seed, _ORDERS[config.order], views, config.captions)


def replay_of(
    config: ReplayConfig, manifests: Sequence[Manifest], size: tuple[int, int]
) -> Replay | None:
    """Return the replay of what these caches hold, or None where images are augmented instead.

    Raises InvalidInput for views and captions that they lack, and for caches of different views.
    """
    _check_captions(config.captions, manifests)
    if not manifests and config.model_copy(update={"captions": None}) != ReplayConfig():
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
    evaluate = _evaluation(manifests[0].fingerprint.preprocessing, size)
    return Replay(views, count, size, evaluate)


def _check_captions(asked: int | None, manifests: Sequence[Manifest]) -> None:
    for manifest in manifests:
        held = manifest.source.most_captions
        if asked is not None and asked > held:
            raise InvalidInput(
                f"replay.captions={asked}, but the cache of {manifest.dataset} holds {held} "
                f"caption{'s' * (held > 1)} of each pair: score it with --captions {asked}"
            )


def _evaluation(
    preprocessing: dict[str, Any], size: tuple[int, int]
) -> Callable[[Image.Image], Image.Image]:
    names = "interpolation", "resize_mode", "fill_color"
    given = {name: preprocessing[name] for name in names if name in preprocessing}
    transform: Any = image_transform_v2(PreprocessCfg(size=size, **given), is_train=False)
    transform.transforms = transform.transforms[:-2]  # which make numbers of it
    return transform
