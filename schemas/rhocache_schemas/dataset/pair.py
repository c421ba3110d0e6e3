"""A pair of a dataset, and the hashes by which a reader knows that it is still the same pair."""

import json
from dataclasses import dataclass

import xxhash

from rhocache_schemas.errors import RowErrorCode


@dataclass(frozen=True, slots=True)
class Pair:
    row: int  # position in its shard, from 0
    key: str
    image: bytes | None  # as stored
    caption: str | None
    metadata: bytes | None  # KEY.json as stored
    error: RowErrorCode | None = None

    @property
    def image_hash(self) -> bytes | None:
        """None where there is no image to hash."""
        return None if self.image is None else hash_image(self.image)

    @property
    def caption_hash(self) -> bytes | None:
        """None where there is no caption to hash."""
        return None if self.caption is None else hash_caption(self.caption)


def read_caption(text: bytes | None, metadata: bytes | None, field: str | None) -> str | None:
    """Give the caption of a pair's KEY.txt or, with ``field``, of this field of its KEY.json.

    None where there is none; raises UnicodeError for one that is not, or has no, UTF-8.
    """
    if field is None:
        return None if text is None else text.decode()
    fields = read_fields(metadata)
    caption = choose_caption(fields.get(field))
    if caption is not None:
        caption.encode()  # a lone surrogate, which JSON can spell, has no UTF-8
    return caption


def choose_caption(value: object) -> str | None:
    """Give a caption that is stored as a string, or the first of a list that is not blank."""
    if isinstance(value, list):
        strings = (each for each in value if isinstance(each, str))  # pyright: ignore[reportUnknownVariableType]
        value = next((each for each in strings if each.strip()), None)
    return value if isinstance(value, str) else None


def read_fields(metadata: bytes | None) -> dict[str, object]:
    """Give the fields of a KEY.json, none where it is not an object. Raises UnicodeDecodeError."""
    try:
        fields: object = json.loads(metadata or b"null")
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError):  # no JSON, or JSON that is nested too deep
        return {}
    return fields if isinstance(fields, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def hash_image(image: bytes) -> bytes:
    """xxh3-64 of the stored image's bytes, as 8 big-endian bytes."""
    return xxhash.xxh3_64_digest(image)


def hash_caption(caption: str) -> bytes:
    """xxh3-64 of the caption's UTF-8, as 8 big-endian bytes."""
    return xxhash.xxh3_64_digest(caption.encode())
