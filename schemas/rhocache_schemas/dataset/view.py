"""Shows a picture as a view has it. Workers and trainer do so by the same lines."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from rhocache_schemas.dataset.augmentation import Operation, View


def render(
    image: Image.Image,
    view: View,
    size: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """Return the view of a picture in RGB, at ``size`` (height, width)."""
    height, width = size
    image = image.convert("RGB").resize((width, height), resample, box=view.box)
    if view.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for operation, amount in view.operations:
        image = _OPERATIONS[operation](image, amount)
    return image


def _hue(image: Image.Image, turn: float) -> Image.Image:
    """Turn the hue by a share of the full circle, from -0.5 to 0.5."""
    hue, *others = image.convert("HSV").split()
    turned = np.asarray(hue) + np.array(turn * 255).astype(np.int64).astype(np.uint8)
    return Image.merge("HSV", [Image.fromarray(turned), *others]).convert("RGB")


def _affine(image: Image.Image, *numbers: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, numbers, Image.Resampling.NEAREST)


def _shear_x(image: Image.Image, slope: float) -> Image.Image:
    return _affine(image, 1, slope, 0, 0, 1, 0)


def _shear_y(image: Image.Image, slope: float) -> Image.Image:
    return _affine(image, 1, 0, 0, slope, 1, 0)


def _translate_x(image: Image.Image, share: float) -> Image.Image:
    return _affine(image, 1, 0, -math.trunc(share * image.width), 0, 1, 0)


def _translate_y(image: Image.Image, share: float) -> Image.Image:
    return _affine(image, 1, 0, 0, 0, 1, -math.trunc(share * image.height))


_OPERATIONS: dict[Operation, Callable[[Image.Image, float], Image.Image]] = {
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "saturation": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
    "hue": _hue,
    "grayscale": lambda image, _: image.convert("L").convert("RGB"),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "rotate": lambda image, degrees: image.rotate(degrees),
    "posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "solarize": lambda image, threshold: ImageOps.solarize(image, math.ceil(threshold)),
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
}
