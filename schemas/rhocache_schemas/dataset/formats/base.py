"""The protocol of every dataset format."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from rhocache_schemas.dataset.keys import Strings
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.documents import Location, Strict

BLOCK = 1024  # pairs: few enough to shuffle blocks, rather than pairs, well


class Source(Strict):
    """Where the pairs are, and how they are stored. A format looks at what it has a use for."""

    dataset: Annotated[
        Location, Field(description="a folder, a file or a brace pattern; a local path or URI")
    ]
    shards: Annotated[
        str | None, Field(description="glob that the names of tars or Parquet files must match")
    ] = None
    caption_field: Annotated[
        str | None, Field(description="field of KEY.json to take captions from, not KEY.txt")
    ] = None
    images: Annotated[
        Location | None,
        Field(description="folder that a table's paths start from; null: the table's own"),
    ] = None
    image_column: Annotated[
        str | None, Field(description="null: image in Parquet, filepath in a CSV")
    ] = None
    caption_column: Annotated[
        str | None, Field(description="null: caption in Parquet, title in a CSV")
    ] = None
    key_column: Annotated[
        str | None, Field(description="null: key, or the name of a CSV's image up to a dot")
    ] = None
    shard_column: Annotated[
        str | None,
        Field(description="the cache's shard of each pair, where keys are in several; null: shard"),
    ] = None


class Format(ABC):
    """A dataset of one format, opened. Worker processes get copies of it.

    Raises, when made, DatasetError where there is no such dataset or no pair in it, InvalidInput
    for settings that don't fit it, and StorageError.
    """

    kind: ClassVar[str]  # what a user calls the format
    suffixes: ClassVar[tuple[str, ...]] = ()  # of a file that is such a dataset, in lower case
    shards: list[Shard]
    images: bool = True  # set it to False, and no image is read: pairs come without

    @abstractmethod
    def __init__(self, source: Source) -> None: ...

    @classmethod
    def sign(cls, names: Sequence[str]) -> str | None:  # noqa: ARG003
        """Return the first file by which a folder with these ``names`` is seen to be of this kind.

        None, as for a format that no folder is of, where there is none.
        """
        return None

    @abstractmethod
    def read(self, shard: Shard, start: int = 0) -> Iterator[Pair]:
        """Yield the pairs of a shard, in order, from the one at position ``start`` on.

        Raises DatasetError, ShardError and StorageError.
        """
        ...

    def load(self, pair: Pair) -> Pair:
        """Return a pair that was read with its image and caption, or with an error. In any thread.

        Raises StorageError.
        """
        return pair

    def describe(self) -> str:
        """Tell what lies there instead of usable pairs, and what would be right."""
        return "its shards hold none"


class KeyedFormat(Format):
    """One whose pairs are counted, and their keys known, before any of them is read."""

    @abstractmethod
    def keys(self) -> Strings:
        """Return the keys of all shards' pairs, in order, as large_string. Raises DatasetError."""
        ...

    def cache_shards(self) -> Strings | None:
        """Return the name of the shard, in a cache, that each pair once came from, if it tells."""
        return None


def blocks(location: str, rows: int) -> list[Shard]:
    """Shards of a dataset that can be read from anywhere, named by their first rows."""
    return [
        Shard(str(first), location, 0, 0, min(BLOCK, rows - first))
        for first in range(0, rows, BLOCK)
    ]
