import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rhocache_schemas.dataset.augmentation import Augmentation, crop_box
from rhocache_trainer.data.augment import augment, pair_random

STILL = Augmentation(scale=(1, 1), ratio=(1, 1))


def picture(width: int = 40, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@given(
    width=st.integers(1, 500),
    height=st.integers(1, 500),
    low=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
def test_a_crop_lies_in_the_image(width, height, low, seed):
    random = pair_random(seed, 0, "s", "k")
    left, upper, right, lower = crop_box(width, height, Augmentation(scale=(low, 1)), random)
    assert 0 <= left < right <= width + 1e-6
    assert 0 <= upper < lower <= height + 1e-6
    assert (right - left) * (lower - upper) <= width * height * (1 + 1e-9)


def test_without_crop_and_flip_it_is_a_resize():
    out = augment(picture(), (16, 24), STILL, pair_random(0, 0, "s", "k"))
    expected = np.asarray(picture().resize((24, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(out.permute(1, 2, 0).numpy(), expected)


def test_a_sure_flip_mirrors():
    flipped = augment(
        picture(), (16, 16), STILL.model_copy(update={"flip": 1.0}), pair_random(0, 0, "s", "k")
    )
    plain = augment(picture(), (16, 16), STILL, pair_random(0, 0, "s", "k"))
    assert np.array_equal(flipped.numpy(), plain.numpy()[:, :, ::-1])


def test_a_grey_image_becomes_rgb():
    out = augment(picture().convert("L"), (8, 8), STILL, pair_random(0, 0, "s", "k"))
    assert out.shape == (3, 8, 8)


def test_randomness_is_that_of_the_pair_and_epoch():
    def crop(*where):
        return augment(picture(), (8, 8), Augmentation(scale=(0.3, 1)), pair_random(*where))

    base = crop(0, 0, "a.tar", "1")
    assert base.equal(crop(0, 0, "a.tar", "1"))
    for other in (
        (1, 0, "a.tar", "1"),
        (0, 1, "a.tar", "1"),
        (0, 0, "b.tar", "1"),
        (0, 0, "a.tar", "2"),
    ):
        assert not base.equal(crop(*other))
