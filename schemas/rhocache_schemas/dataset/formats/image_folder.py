"""Image folder: images, KEY.jpg (png, jpeg, webp), each with its caption in KEY.txt beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import pyarrow as pa

from rhocache_schemas.dataset.formats.base import KeyedFormat, Source, blocks
from rhocache_schemas.dataset.formats.files import Files
from rhocache_schemas.dataset.found import (
    CAPTION_SUFFIX,
    IMAGE_SUFFIXES,
    METADATA_SUFFIX,
    PAIR_SUFFIXES,
    found_in,
    split_name,
)
from rhocache_schemas.dataset.keys import Strings
from rhocache_schemas.dataset.pair import DEFAULT_LIMITS, Pair, read_caption
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import DatasetError, RowError, RowErrorCode


class ImageFolder(KeyedFormat):
    """A pair's key is the path of its files under the root, up to the first dot of the name.

    ``caption_field`` is the field of KEY.json to take captions from, instead of KEY.txt.

    Raises DatasetError where there is no image, or no caption beside any, and InvalidInput for a
    name that is not UTF-8.
    """

    kind = "folder"
    needs_captions: ClassVar[bool] = True

    def __init__(self, source: Source) -> None:
        root, self._caption_field = source.dataset, source.caption_field
        self._files = Files(root)
        self._captions = CAPTION_SUFFIX if self._caption_field is None else METADATA_SUFFIX
        members: dict[str, dict[str, str]] = {}  # path without suffix -> suffix -> file
        names = self._files.list(tuple(f".{suffix}" for suffix in PAIR_SUFFIXES))
        for name in names:
            stem, suffix = split_name(name)
            members.setdefault(stem, {})[suffix] = name
        self._pairs = [
            (stem, image, files.get(self._captions))
            for stem, files in members.items()
            if (image := next((files[s] for s in IMAGE_SUFFIXES if s in files), None)) is not None
        ]
        if not any(caption or not self.needs_captions for _, _, caption in self._pairs):
            what = f"caption ({self._captions}) beside an image" if self._pairs else "image"
            raise DatasetError(
                f"{root} holds no {what}; it has {found_in(names).describe(self._caption_field)}"
            )
        self.shards = blocks(root, len(self._pairs))

    @classmethod
    def sign(cls, names: Sequence[str]) -> str | None:
        return next((name for name in names if split_name(name)[1] in IMAGE_SUFFIXES), None)

    def keys(self) -> Strings:
        return pa.chunked_array([[key for key, _, _ in self._pairs]], pa.large_string())

    def read(self, shard: Shard, start: int = 0) -> Iterator[Pair]:
        first = int(shard.name)
        for row in range(start, shard.rows or 0):
            key, _, _ = self._pairs[first + row]
            yield Pair(shard.name, row, key)

    def load(self, pair: Pair) -> Pair:
        _, image, caption = self._pairs[int(pair.shard) + pair.row]
        if caption is None:
            return pair.failed(RowErrorCode.TEXT_MISSING, f"there is no caption beside {image}")
        try:
            text, metadata = self._caption(caption)
            read = self._files.read_image(image) if self.images else None
        except RowError as error:
            return pair.failed(error.code, str(error))
        pair = replace(pair, image=read, caption=text, metadata=metadata, images=self.images)
        return pair.checked()

    def _caption(self, name: str) -> tuple[str | None, bytes | None]:
        """A caption, and the KEY.json that it was taken from."""
        data = self._files.read(
            name,
            missing=RowErrorCode.TEXT_MISSING,
            most=DEFAULT_LIMITS.text_bytes,
            too_large=RowErrorCode.TEXT_MISSING,
        )
        try:
            text = read_caption(data, data, self._caption_field)
        except UnicodeError as error:
            raise RowError(RowErrorCode.TEXT_NOT_UTF8, f"{name} is not UTF-8") from error
        return text, None if self._caption_field is None else data
