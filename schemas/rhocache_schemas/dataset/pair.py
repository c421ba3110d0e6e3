"""A pair of a dataset, the caps on it, and the hashes by which it is known to be still the same."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import xxhash

from rhocache_schemas.errors import RowError, RowErrorCode


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps that keep a hostile or broken dataset from taking the machine down."""

    member_bytes: int = 64 << 20  # of an image
    text_bytes: int = 4 << 20  # of a caption or a json, whose parsing takes 30 times as much memory
    members: int = 1_000_000  # in one shard
    expansion: int = 200  # of a compressed shard: bytes for each stored one, beyond member_bytes
    pixels: int = 100_000_000  # of an image
    aspect_ratio: float = 200.0  # long side over short; a thin image explodes when it is resized


DEFAULT_LIMITS = Limits()
HASH_BYTES = 16  # of an image's and a caption's hash; 8 in caches of format 1


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair as it is stored. Some formats read its image and caption only when it is loaded."""

    shard: str  # name of its shard
    row: int  # position in its shard, from 0
    key: str
    image: bytes | None = None  # as stored
    caption: str | None = None
    metadata: bytes | None = None  # KEY.json as stored
    error: RowErrorCode | None = None  # why it can't be used
    detail: str = ""  # of the error, for a person
    images: bool = True  # False where images were not to be read: it has none, and that is right
    others: tuple[str, ...] = ()  # captions after the first, where several are read

    @property
    def image_hash(self) -> bytes | None:
        """None where there is no image to hash."""
        return None if self.image is None else hash_image(self.image)

    @property
    def captions(self) -> tuple[str, ...]:
        return () if self.caption is None else (self.caption, *self.others)

    @property
    def caption_hash(self) -> bytes | None:
        """Of all its captions; None where there is none to hash."""
        return None if self.caption is None else hash_captions(self.captions)

    def captioned(self, captions: Sequence[str]) -> Self:
        return replace(self, caption=next(iter(captions), None), others=tuple(captions[1:]))

    def failed(self, code: RowErrorCode, detail: str) -> Self:
        return replace(self, error=code, detail=detail)

    def checked(self) -> Self:
        """Return the pair, with an error where it has none yet and can't be used as it is."""
        if self.error is not None:
            return self
        if self.images and not self.image:
            return self.failed(RowErrorCode.IMAGE_MISSING, "it has no image")
        if self.image and len(self.image) > DEFAULT_LIMITS.member_bytes:
            detail = f"its image has {len(self.image)} bytes"
            return self.failed(RowErrorCode.IMAGE_TOO_LARGE, detail)
        if self.caption is None or not self.caption.strip():
            return self.failed(RowErrorCode.TEXT_MISSING, "it has no caption")
        return self

    def content(self) -> tuple[bytes, str]:
        """Return the image, empty where none was to be read, and the caption.

        Raises RowError for a pair that can't be used.
        """
        pair = self.checked()
        if pair.error is not None:
            raise RowError(pair.error, pair.detail or pair.error)
        return pair.image or b"", pair.caption or ""


def choose_captions(values: Iterable[object], most: int = 1) -> list[str]:
    """Return the captions among what is stored, strings and lists of them.

    They are the first ``most`` that are not blank. Where all are blank it is the first.
    """
    lists = (value if isinstance(value, list) else [value] for value in values)  # pyright: ignore[reportUnknownVariableType]
    captions = [each for several in lists for each in several if isinstance(each, str)]  # pyright: ignore[reportUnknownVariableType]
    return [each for each in captions if each.strip()][:most] or captions[:1]


def read_fields(metadata: bytes | None) -> dict[str, object]:
    """Return the fields of a KEY.json, none where it is no object. Raises UnicodeDecodeError."""
    try:
        fields: object = json.loads(metadata or b"null")
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError):  # no JSON, or JSON that is nested too deep
        return {}
    return fields if isinstance(fields, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def hash_image(image: bytes, width: int = HASH_BYTES) -> bytes:
    """Return the xxh3-128 of the stored image's bytes, big-endian; of 8 bytes its xxh3-64."""
    return _hash(image, width)


def hash_caption(caption: str, width: int = HASH_BYTES) -> bytes:
    """Return the hash of a pair's only caption."""
    return hash_captions([caption], width)


def hash_captions(captions: Sequence[str], width: int = HASH_BYTES) -> bytes:
    """Return the xxh3-128 of a pair's captions, big-endian; of 8 bytes their xxh3-64.

    It is of the UTF-8 of one; of several, of each one's bytes behind their number, in 8
    little-endian bytes.
    """
    parts = [caption.encode() for caption in captions]
    if len(parts) > 1:
        parts = [len(part).to_bytes(8, "little") + part for part in parts]
    return _hash(b"".join(parts), width)


def _hash(data: bytes, width: int) -> bytes:
    return xxhash.xxh3_64_digest(data) if width == 8 else xxhash.xxh3_128_digest(data)
