"""What may happen to a picture before a tower sees it, and how it is drawn for one picture."""

import math
from dataclasses import dataclass
from struct import pack
from typing import Annotated, Literal, Protocol, Self

import xxhash
from pydantic import BeforeValidator, Field, model_validator

from rhocache_schemas.documents import Strict

Share = Annotated[float, Field(ge=0, le=1)]
_Edge = Annotated[float, Field(gt=0)]
Range = Annotated[
    tuple[_Edge, _Edge],
    BeforeValidator(lambda given: given.split(",") if isinstance(given, str) else given),
    Field(description="from, to"),
]

Operation = Literal[
    "brightness", "contrast", "saturation", "hue", "grayscale", "sharpness", "shear_x", "shear_y",
    "translate_x", "translate_y", "rotate", "posterize", "solarize", "autocontrast", "equalize",
]  # fmt: skip

# RandAugment's operations as torchvision has them: what each comes to at the greatest magnitude,
# and whether its sign is drawn. Shears are slopes, translations shares of the side, rotations
# degrees; 1 ± the amount is the factor of an enhancement.
_LARGEST: dict[Operation | None, tuple[float, bool]] = {
    None: (0.0, False),
    "shear_x": (0.3, True),
    "shear_y": (0.3, True),
    "translate_x": (150 / 331, True),
    "translate_y": (150 / 331, True),
    "rotate": (30.0, True),
    "brightness": (0.9, True),
    "saturation": (0.9, True),
    "contrast": (0.9, True),
    "sharpness": (0.9, True),
    "posterize": (4.0, False),
    "solarize": (256.0, False),
    "autocontrast": (0.0, False),
    "equalize": (0.0, False),
}
_ENHANCEMENTS = {"brightness", "saturation", "contrast", "sharpness"}
_MAGNITUDES = 30  # from 0, which does next to nothing


class Augmentation(Strict):
    """What happens to a training image, in the order of these fields."""

    scale: Annotated[
        Range, Field(description="Share of the image that a crop keeps: from, to.")
    ] = (
        0.9,
        1.0,
    )
    ratio: Annotated[Range, Field(description="Width over height of a crop: from, to.")] = (
        3 / 4,
        4 / 3,
    )
    flip: Annotated[Share, Field(description="Probability of mirroring left and right.")] = 0.0
    color_jitter: Annotated[
        Share,
        Field(
            description="How far brightness, contrast and saturation may change, and hue by a "
            "quarter of it (SimCLR has 0.4), in 4 of 5 images; 0: not at all."
        ),
    ] = 0.0
    grayscale: Annotated[Share, Field(description="Probability of losing all colour.")] = 0.0
    rand_augment: Annotated[
        int,
        Field(
            ge=0,
            le=_MAGNITUDES,
            description="Magnitude of RandAugment's two operations; 0: none.",
        ),
    ] = 0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                raise ValueError(f"{name} runs from {low} down to {high}; put the smaller first")
        if self.scale[1] > 1:
            raise ValueError(f"scale {self.scale[1]} is more than the whole image")
        return self


class Draws(Protocol):
    """Where randomness comes from; ``random.Random`` is one."""

    def random(self) -> float:
        """A number from 0 on, below 1."""
        ...

    def uniform(self, low: float, high: float, /) -> float: ...


class ViewDraws:
    """The draws of one view: a pure function of where the pair stands, on every machine, for good.

    The n-th is the xxh3-64 of (view, n), seeded by that of (shard, key), which is seeded by the
    seed; the highest 53 of its bits are the number.
    """

    def __init__(self, seed: int, shard: str, key: str, view: int) -> None:
        name = f"{shard}\0{key}".encode(errors="surrogatepass")
        self._seed = xxhash.xxh3_64_intdigest(name, seed % (1 << 64))
        self._view = view
        self._drawn = 0

    def random(self) -> float:
        bits = xxhash.xxh3_64_intdigest(pack("<QQ", self._view, self._drawn), self._seed)
        self._drawn += 1
        return (bits >> 11) * 2.0**-53

    def uniform(self, low: float, high: float, /) -> float:
        return low + (high - low) * self.random()


@dataclass(frozen=True, slots=True)
class View:
    """How a picture is looked at: a crop that is resized, perhaps mirrored, and then changed."""

    box: tuple[float, float, float, float]  # left, upper, right and lower edge, in its pixels
    mirrored: bool = False
    operations: tuple[tuple[Operation, float], ...] = ()  # with their amounts, in order


def draw_view(width: int, height: int, augmentation: Augmentation, draws: Draws) -> View:
    """Draw how a picture of ``width`` x ``height`` pixels is looked at."""
    box = crop_box(width, height, augmentation, draws)
    mirrored = draws.random() < augmentation.flip
    operations = [
        *_draw_jitter(augmentation.color_jitter, draws),
        *_draw_grayscale(augmentation.grayscale, draws),
        *_draw_rand_augment(augmentation.rand_augment, draws),
    ]
    return View(box, mirrored, tuple(operations))


def crop_box(
    width: int, height: int, augmentation: Augmentation, draws: Draws
) -> tuple[float, float, float, float]:
    """Left, upper, right and lower edge, in pixels, of a crop with a random area and shape.

    The area is a share of the image within ``scale`` and width/height lies within ``ratio`` (drawn
    on a log scale), both cut where the image ends: torchvision's RandomResizedCrop otherwise.
    """
    area = width * height * draws.uniform(*augmentation.scale)
    ratio = math.exp(draws.uniform(*map(math.log, augmentation.ratio)))
    crop_width = min(width, math.sqrt(area * ratio))
    crop_height = min(height, math.sqrt(area / ratio))
    left = draws.uniform(0, width - crop_width)
    upper = draws.uniform(0, height - crop_height)
    return left, upper, left + crop_width, upper + crop_height


def _draw_jitter(strength: float, draws: Draws) -> list[tuple[Operation, float]]:
    """torchvision's ColorJitter, applied to 4 of 5 images as SimCLR and open_clip do."""
    if not strength or draws.random() >= 0.8:
        return []
    found: list[tuple[Operation, float]] = [
        ("brightness", draws.uniform(1 - strength, 1 + strength)),
        ("contrast", draws.uniform(1 - strength, 1 + strength)),
        ("saturation", draws.uniform(1 - strength, 1 + strength)),
        ("hue", draws.uniform(-strength / 4, strength / 4)),
    ]
    for last in range(len(found) - 1, 0, -1):  # Fisher and Yates
        other = int(draws.random() * (last + 1))
        found[last], found[other] = found[other], found[last]
    return found


def _draw_grayscale(probability: float, draws: Draws) -> list[tuple[Operation, float]]:
    return [("grayscale", 0.0)] if probability and draws.random() < probability else []


def _draw_rand_augment(magnitude: int, draws: Draws) -> list[tuple[Operation, float]]:
    """Draw two operations, or none in an operation's place (Cubuk et al. 2020, RandAugment)."""
    names, found = list(_LARGEST), list[tuple[Operation, float]]()
    for _ in range(2 if magnitude else 0):
        name = names[int(draws.random() * len(names))]
        largest, signed = _LARGEST[name]
        amount = largest * magnitude / _MAGNITUDES
        if signed and draws.random() < 0.5:
            amount = -amount
        if name == "posterize":
            amount = 8 - round(amount)  # bits that stay
        elif name == "solarize":
            amount = 255 - amount * 255 / 256  # from which brightness on it is inverted
        elif name in _ENHANCEMENTS:
            amount += 1
        if name is not None:
            found.append((name, amount))
    return found
