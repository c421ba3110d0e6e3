"""Against open_clip's own transform."""

import open_clip
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose

from rhocache_workers.reference.preprocess import Preprocess


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_both_halves_make_the_whole(mode: str, resize_mode: str) -> None:
    transform = open_clip.image_transform(
        (32, 48), is_train=False, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), resize_mode=resize_mode
    )
    assert isinstance(transform, Compose)
    preprocess = Preprocess(transform)
    image = Image.effect_mandelbrot((90, 70), (-2, -1, 1, 1), 30).convert(mode)
    pixels = preprocess(image)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 32, 48))
    torch.testing.assert_close(
        preprocess.normalize(pixels[None]), transform(image)[None], atol=1e-6, rtol=0
    )
