"""Image folder: images, KEY.jpg (png, jpeg, webp), each with its caption in KEY.txt beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import pyarrow as pa

from rhocache_schemas.dataset.formats.base import BLOCK, CheckPlace, KeyedFormat, numbered
from rhocache_schemas.dataset.formats.files import Files
from rhocache_schemas.dataset.found import (
    IMAGE_SUFFIXES,
    METADATA_SUFFIX,
    Suffixes,
    found_in,
    split_name,
)
from rhocache_schemas.dataset.keys import Strings
from rhocache_schemas.dataset.pair import DEFAULT_LIMITS, Pair
from rhocache_schemas.dataset.shards import Content, Shard
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.dataset.tree import Entry
from rhocache_schemas.errors import DatasetError, RowError, RowErrorCode

_NAME = "files"  # of its shards, before their numbers


class _Found(NamedTuple):
    key: str
    image: Entry
    captions: list[tuple[str, Entry]]  # by suffix

    @property
    def files(self) -> list[Entry]:
        return [self.image, *(entry for _, entry in self.captions)]


class ImageFolder(KeyedFormat):
    """A pair's key is the path of its files under the root, up to the first dot of the name.

    ``caption_field`` is the field of KEY.json to take captions from, instead of KEY.txt. A shard is
    a run of BLOCK pairs in the order of their names.

    Raises DatasetError where there is no image, or no caption beside any, and InvalidInput for a
    name that is not UTF-8.
    """

    kind = "folder"
    needs_captions: ClassVar[bool] = True

    def __init__(self, source: Source, check: CheckPlace | None = None) -> None:
        root, suffixes = source.dataset, Suffixes.of(source)
        self._files = Files(root, check)
        entries = self._files.list(tuple(f".{suffix}" for suffix in suffixes.all))
        pairs = _pairs(entries, suffixes)
        if not any(pair.captions or not self.needs_captions for pair in pairs):
            captions = " or ".join(suffixes.captions)
            what = f"caption ({captions}) beside an image" if pairs else "image"
            told = found_in(entry.name for entry in entries).describe(suffixes)
            raise DatasetError(f"{root} holds no {what}; it has {told}")
        self._files.check(entry.name for pair in pairs for entry in pair.files)
        blocks = (pairs[first : first + BLOCK] for first in range(0, len(pairs), BLOCK))
        self._take(
            [
                _shard(number, root, block, self._content(block, suffixes))
                for number, block in enumerate(blocks)
            ]
        )
        self._keys = pa.chunked_array([[pair.key for pair in pairs]], pa.large_string())

    @classmethod
    def sign(cls, names: Sequence[str]) -> str | None:
        lasts = ((name, split_name(name)[1].rpartition(".")[2]) for name in names)
        return next((name for name, suffix in lasts if suffix in IMAGE_SUFFIXES), None)

    def keys(self) -> Strings:
        return self._keys

    def _content(self, block: list[_Found], suffixes: Suffixes) -> Content:
        return FolderBlock(
            self._files,
            [pair.key for pair in block],
            [pair.image.name for pair in block],
            [[(suffix, entry.name) for suffix, entry in pair.captions] for pair in block],
            suffixes,
        )


@dataclass(frozen=True, slots=True)
class FolderBlock:
    """A run of a folder's pairs, by the names of their files."""

    files: Files
    keys: list[str]
    images: list[str]
    captions: list[list[tuple[str, str]]]  # suffixes and names
    suffixes: Suffixes

    def read(self, shard: str, start: int = 0, *, images: bool = True) -> Iterator[Pair]:
        for row in range(start, len(self.keys)):
            yield Pair(shard, row, self.keys[row], images=images)

    def load(self, pair: Pair) -> Pair:
        names = self.captions[pair.row]
        if not names:
            detail = f"there is no caption beside {self.images[pair.row]}"
            return self.load_image(pair).failed(RowErrorCode.TEXT_MISSING, detail)
        try:
            files = [(suffix, self._read_text(name)) for suffix, name in names]
            captions = self._captions(files)
        except RowError as error:
            return self.load_image(pair).failed(error.code, str(error))
        texts = (data for suffix, data in files if suffix == METADATA_SUFFIX)
        pair = replace(pair.captioned(captions), metadata=next(texts, None))
        return self.load_image(pair).checked()

    def load_image(self, pair: Pair) -> Pair:
        if not pair.images:
            return pair
        try:
            return replace(pair, image=self.files.read_image(self.images[pair.row]))
        except RowError as error:
            return pair.failed(error.code, str(error))

    def _read_text(self, name: str) -> bytes:
        return self.files.read(
            name,
            missing=RowErrorCode.TEXT_MISSING,
            most=DEFAULT_LIMITS.text_bytes,
            too_large=RowErrorCode.TEXT_MISSING,
        )

    def _captions(self, files: list[tuple[str, bytes]]) -> list[str]:
        try:
            return self.suffixes.read_captions(files)
        except UnicodeError as error:
            raise RowError(RowErrorCode.TEXT_NOT_UTF8, "a caption is not UTF-8") from error


def _pairs(entries: list[Entry], suffixes: Suffixes) -> list[_Found]:
    """The pairs that have an image, in order of their files' names."""
    files: dict[str, dict[str, Entry]] = {}  # path without suffix -> suffix -> file
    wanted = suffixes.all
    for entry in entries:
        stem, suffix = split_name(entry.name)
        if suffix in wanted:
            files.setdefault(stem, {})[suffix] = entry
    found: list[_Found] = []
    for key, named in files.items():
        image = next((named[each] for each in suffixes.images if each in named), None)
        captions = [(each, named[each]) for each in suffixes.captions if each in named]
        if image is not None:
            found.append(_Found(key, image, captions))
    return found


def _shard(number: int, root: str, block: list[_Found], content: Content) -> Shard:
    entries = [each for pair in block for each in pair.files]
    return Shard(
        numbered(_NAME, number),
        root,
        sum(entry.size for entry in entries),
        max(entry.mtime_ns for entry in entries),
        len(block),
        content=content,
    )
