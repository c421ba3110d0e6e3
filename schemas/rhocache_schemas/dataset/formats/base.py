"""What every kind of dataset is to the trainer: parts, read from their start, full of pairs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from rhocache_schemas.dataset.limits import DEFAULT_LIMITS
from rhocache_schemas.errors import RowError, RowErrorCode

BLOCK = 1024  # pairs: few enough to shuffle blocks, rather than pairs, well


@dataclass(frozen=True, slots=True)
class Part:
    """A tar, a row group, or a block of rows."""

    name: str
    rows: int | None  # None where only reading it tells


@dataclass(frozen=True, slots=True)
class Record:
    """A pair as it is stored. What is not at hand yet is read when ``content`` is called."""

    row: int  # position in its part, from 0
    key: str
    content: Callable[[], tuple[bytes, str]]  # image and caption; raises RowError, in any thread


class Container(Protocol):
    parts: list[Part]

    def read(self, part: Part, start: int) -> Iterator[Record]:
        """Give the pairs of a part, in order, from the one at position ``start`` on."""
        ...


class KeyedContainer(Container, Protocol):
    """A dataset whose keys are known before it is read."""

    def keys(self) -> pa.ChunkedArray:
        """The keys of all parts' pairs, in order, as strings. Raises DatasetError."""
        ...

    def shards(self) -> pa.ChunkedArray | None:
        """The dataset shard, as a cache names it, that each pair once came from."""
        ...


def checked(image: bytes | None, caption: str | None) -> tuple[bytes, str]:
    """Give back a stored image and caption that can be used; raises RowError for one that can't."""
    if not image:
        raise RowError(RowErrorCode.IMAGE_MISSING, "it has no image")
    if len(image) > DEFAULT_LIMITS.member_bytes:
        raise RowError(RowErrorCode.IMAGE_TOO_LARGE, f"its image has {len(image)} bytes")
    if caption is None or not caption.strip():
        raise RowError(RowErrorCode.TEXT_MISSING, "it has no caption")
    return image, caption


def blocks(rows: int) -> list[Part]:
    """Parts of a dataset that can be read from anywhere, named by their first rows."""
    return [Part(str(first), min(BLOCK, rows - first)) for first in range(0, rows, BLOCK)]
