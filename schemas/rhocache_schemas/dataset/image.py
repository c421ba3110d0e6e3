"""Opening a stored image, with caps that are checked before its pixels are decoded."""

import io
import warnings

from PIL import Image

from rhocache_schemas.dataset.pair import DEFAULT_LIMITS, Limits
from rhocache_schemas.errors import RowError, RowErrorCode

FORMATS = ("JPEG", "PNG", "WEBP")

# Pillow warns of odd but readable files; the only question here is whether they read. Filters are
# the process's: set around each call, those of one decoding thread would end another's.
warnings.filterwarnings("ignore", module=r"PIL\.")


def open_image(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """Decode an image in its stored mode (open_clip's preprocessing converts to RGB itself).

    Raises RowError with image_undecodable, image_too_large or image_too_small.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(*image.size, limits)
        image.load()
    except (RowError, MemoryError):  # a machine that is short of memory says nothing of the image
        raise
    except Image.DecompressionBombError as error:
        raise RowError(RowErrorCode.IMAGE_TOO_LARGE, str(error)) from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        detail = f"not a readable {'/'.join(FORMATS)} image: {error}"
        raise RowError(RowErrorCode.IMAGE_UNDECODABLE, detail) from error
    return image


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise RowError(
            RowErrorCode.IMAGE_TOO_LARGE, f"{width} x {height} pixels; at most {limits.pixels}"
        )
    if max(width, height) > limits.aspect_ratio * min(width, height):
        raise RowError(
            RowErrorCode.IMAGE_TOO_SMALL,
            f"{width} x {height}: one side is over {limits.aspect_ratio:g} times the other",
        )
