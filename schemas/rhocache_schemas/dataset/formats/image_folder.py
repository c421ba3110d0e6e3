"""A folder of images, KEY.jpg (png, jpeg, webp), each with its caption in KEY.txt beside it."""

from collections.abc import Iterator
from functools import partial

import pyarrow as pa

from rhocache_schemas.dataset.formats.base import Part, Record, blocks, checked
from rhocache_schemas.dataset.formats.files import Files
from rhocache_schemas.dataset.found import (
    CAPTION_SUFFIX,
    IMAGE_SUFFIXES,
    METADATA_SUFFIX,
    found_in,
    split_name,
)
from rhocache_schemas.dataset.limits import DEFAULT_LIMITS
from rhocache_schemas.dataset.pair import read_caption
from rhocache_schemas.errors import DatasetError, RowError, RowErrorCode


class ImageFolder:
    """A pair's key is the path of its files under the root, up to the first dot of the name.

    ``caption_field`` is the field of KEY.json to take captions from, instead of KEY.txt.

    Raises DatasetError where there is no image, or no caption beside any, and InvalidInput for a
    name that is not UTF-8.
    """

    def __init__(self, root: str, caption_field: str | None = None) -> None:
        self._files = Files(root)
        self._caption_field = caption_field
        self._captions = CAPTION_SUFFIX if caption_field is None else METADATA_SUFFIX
        members: dict[str, dict[str, str]] = {}  # path without suffix -> suffix -> file
        names = self._files.list()
        for name in names:
            stem, suffix = split_name(name)
            members.setdefault(stem, {})[suffix] = name
        self._pairs = [
            (stem, image, files.get(self._captions))
            for stem, files in members.items()
            if (image := next((files[s] for s in IMAGE_SUFFIXES if s in files), None)) is not None
        ]
        if not any(caption for _, _, caption in self._pairs):
            what = f"caption ({self._captions}) beside an image" if self._pairs else "image"
            raise DatasetError(
                f"{root} holds no {what}; it has {found_in(names).describe(caption_field)}"
            )
        self.parts = blocks(len(self._pairs))

    def keys(self) -> pa.ChunkedArray:
        return pa.chunked_array([[key for key, _, _ in self._pairs]], pa.large_string())

    def shards(self) -> None:
        return None

    def read(self, part: Part, start: int) -> Iterator[Record]:
        first = int(part.name)
        for row in range(start, part.rows or 0):
            key, image, caption = self._pairs[first + row]
            yield Record(row, key, partial(self._content, image, caption))

    def _content(self, image: str, caption: str | None) -> tuple[bytes, str]:
        if caption is None:
            raise RowError(RowErrorCode.TEXT_MISSING, f"there is no caption beside {image}")
        data = self._files.read(
            caption,
            missing=RowErrorCode.TEXT_MISSING,
            most=DEFAULT_LIMITS.text_bytes,
            too_large=RowErrorCode.TEXT_MISSING,
        )
        try:
            text = read_caption(data, data, self._caption_field)
        except UnicodeError as error:
            raise RowError(RowErrorCode.TEXT_NOT_UTF8, f"{caption} is not UTF-8") from error
        return checked(self._files.read_image(image), text)
