import io

import pytest
from PIL import Image

from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.dataset.pair import Limits
from rhocache_schemas.errors import RowError, RowErrorCode


def stored(size: tuple[int, int], kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_opens_the_three_formats(kind: str) -> None:
    assert open_image(stored((7, 5), kind)).size == (7, 5)


def test_keeps_the_stored_mode() -> None:
    assert open_image(stored((3, 3), mode="P")).mode == "P"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", RowErrorCode.IMAGE_UNDECODABLE),
        (b"<html>not found</html>", RowErrorCode.IMAGE_UNDECODABLE),
        (stored((30, 30))[:-40], RowErrorCode.IMAGE_UNDECODABLE),
        (stored((9, 9), "GIF"), RowErrorCode.IMAGE_UNDECODABLE),
        (stored((40, 40)), RowErrorCode.IMAGE_TOO_LARGE),
        (stored((1, 60)), RowErrorCode.IMAGE_TOO_SMALL),
    ],
)
def test_bad_images_have_a_code(data: bytes, code: RowErrorCode) -> None:
    with pytest.raises(RowError) as caught:
        open_image(data, Limits(pixels=1000, aspect_ratio=50))
    assert caught.value.code == code


@pytest.mark.parametrize("side", [12_000, 20_000])  # above our cap, and above Pillow's own
def test_the_pixel_cap_is_checked_before_decoding(side: int) -> None:
    with pytest.raises(RowError, match="pixels") as caught:
        open_image(stored((side, side), mode="1"))
    assert caught.value.code == RowErrorCode.IMAGE_TOO_LARGE
