"""A pair of a dataset, and the hashes by which a reader knows that it is still the same pair."""

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


def hash_image(image: bytes) -> bytes:
    """xxh3-64 of the stored image's bytes, as 8 big-endian bytes."""
    return xxhash.xxh3_64_digest(image)


def hash_caption(caption: str) -> bytes:
    """xxh3-64 of the caption's UTF-8, as 8 big-endian bytes."""
    return xxhash.xxh3_64_digest(caption.encode())
