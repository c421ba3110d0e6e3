"""Against torchvision, whose transforms the operations are."""

import math

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F  # noqa: N812
from torchvision.transforms.autoaugment import _apply_op

from rhocache_schemas.dataset.augmentation import Augmentation, View, ViewDraws, draw_view
from rhocache_schemas.dataset.view import render

WHOLE = (0.0, 0.0, 48.0, 36.0)


def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((48, 36), Image.Resampling.BICUBIC)


def shown(*operations, mirrored=False, box=WHOLE, size=(36, 48)) -> np.ndarray:
    return np.asarray(render(picture(), View(box, mirrored, operations), size))


@pytest.mark.parametrize(
    ("operation", "amount", "expected"),
    [
        ("brightness", 1.3, F.adjust_brightness),
        ("contrast", 0.6, F.adjust_contrast),
        ("saturation", 1.4, F.adjust_saturation),
        ("hue", 0.07, F.adjust_hue),
        ("hue", -0.1, F.adjust_hue),
        ("sharpness", 1.5, F.adjust_sharpness),
        ("grayscale", 0.0, lambda image, _: F.to_grayscale(image, 3)),
        ("posterize", 5, F.posterize),
        ("solarize", 178.5, F.solarize),
        ("autocontrast", 0.0, lambda image, _: F.autocontrast(image)),
        ("equalize", 0.0, lambda image, _: F.equalize(image)),
        ("rotate", -9.0, F.rotate),
    ],
)
def test_an_operation_is_torchvisions(operation, amount, expected):
    assert np.array_equal(shown((operation, amount)), np.asarray(expected(picture(), amount)))


@pytest.mark.parametrize("amount", [0.09, -0.21])
@pytest.mark.parametrize(
    ("operation", "name", "side"),
    [
        ("shear_x", "ShearX", 1),
        ("shear_y", "ShearY", 1),
        ("translate_x", "TranslateX", 48),
        ("translate_y", "TranslateY", 36),
    ],
)
def test_a_movement_is_rand_augments(operation, name, side, amount):
    expected = _apply_op(picture(), name, amount * side, InterpolationMode.NEAREST, None)
    assert np.array_equal(shown((operation, amount)), np.asarray(expected))


def test_a_crop_is_torchvisions_resized_crop():
    expected = F.resized_crop(picture(), 6, 10, 20, 30, [16, 24], InterpolationMode.BICUBIC)
    difference = shown(box=(10, 6, 40, 26), size=(16, 24)).astype(int) - np.asarray(expected)
    # Pillow's box looks beyond its edge for what it blends there, and a cut picture has nothing.
    assert np.abs(difference[2:-2, 2:-2]).max() <= 1


def test_operations_are_done_in_their_order_after_the_mirror():
    once = shown(("posterize", 3), ("brightness", 1.7), mirrored=True)
    again = F.adjust_brightness(F.posterize(F.hflip(picture()), 3), 1.7)
    assert np.array_equal(once, np.asarray(again))
    assert not np.array_equal(once, shown(("brightness", 1.7), ("posterize", 3), mirrored=True))


def test_every_operation_that_can_be_drawn_can_be_shown():
    augmentation = Augmentation(color_jitter=0.4, grayscale=0.5, rand_augment=30, flip=0.5)
    drawn = set()
    for key in range(200):
        view = draw_view(48, 36, augmentation, ViewDraws(0, "a.tar", str(key), 1))
        drawn.update(name for name, _ in view.operations)
        assert render(picture(), view, (8, 8)).size == (8, 8)
    assert len(drawn) == 15


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_of_any_mode_are_shown_in_rgb(mode):
    out = render(picture().convert("L" if mode == "I;16" else mode), View(WHOLE), (8, 8))
    assert (out.mode, out.size) == ("RGB", (8, 8))


def test_a_translation_is_cut_to_whole_pixels():
    assert math.trunc(0.21 * 48) == 10
    moved = shown(("translate_x", 0.21))
    assert not moved[:, :10].any()
    assert np.array_equal(moved[:, 10:], np.asarray(picture())[:, :-10])
