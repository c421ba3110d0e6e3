"""The protocol of every dataset format."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import ClassVar, Protocol

from rhocache_schemas.dataset.keys import Strings
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import Content, Shard
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import (
    DatasetError,
    RowErrorCode,
    ShardError,
    ShardErrorCode,
    StorageError,
    UriNotAllowed,
)

# Pairs of a shard that is not a file of its own: few enough to shuffle such shards, rather than
# pairs, well, and to lose little with one; as many as a row group of a cache's file; and of
# 100,000,000 pairs not more than 100,000 files.
BLOCK = 1024

CheckPlace = Callable[[str], None]  # raises UriNotAllowed for a place that may not be read

_READERS = 16  # threads; an object store answers each of them only after a while
_AT_ONCE = 64  # pairs that are held while they are loaded


class PairReader(Protocol):
    """Iterates once over a shard's pairs, all of them, with their images and captions.

    A pair that can't be used carries its RowErrorCode. After the last pair ``sha256`` holds the
    SHA-256, hexadecimal, by which a shard is known to be still the same: of a tar's file, and
    otherwise of what the pairs are. ``position`` is how many bytes the pairs so far have taken,
    about.

    Raises ShardError.
    """

    sha256: str | None
    position: int

    def __iter__(self) -> Iterator[Pair]: ...


class Format(ABC):
    """A dataset of one format, opened. Worker processes get copies of it.

    ``check`` is called with each place that is no part of the dataset's own, such as what a link
    leads to, before anything is read from there.

    Raises, when made, DatasetError where there is no such dataset or no pair in it, InvalidInput
    for settings that don't fit it, StorageError, and what ``check`` raises.
    """

    kind: ClassVar[str]  # what a user calls the format
    suffixes: ClassVar[tuple[str, ...]] = ()  # of a file that is such a dataset, in lower case
    shards: list[Shard]
    images: bool = True  # set it to False, and no image is read: pairs come without

    @abstractmethod
    def __init__(self, source: Source, check: CheckPlace | None = None) -> None: ...

    @classmethod
    def sign(cls, names: Sequence[str]) -> str | None:  # noqa: ARG003
        """Return the first file by which a folder with these ``names`` is seen to be of this kind.

        None, as for a format that no folder is of, where there is none.
        """
        return None

    @classmethod
    def find(
        cls, source: Source, names: Iterable[str], check: CheckPlace | None = None
    ) -> dict[str, Shard]:
        """Look for shards by their names, whatever glob there is; those that are gone are left out.

        Raises as making one does.
        """
        wanted = set(names)
        if not wanted:
            return {}
        shards = cls(source.model_copy(update={"shards": None}), check).shards
        return {shard.name: shard for shard in shards if shard.name in wanted}

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

    def dated(self) -> list[Shard]:
        """Return the shards with the sizes and times of their files, by which changes are noticed.

        Where listing the shards does not tell them it takes a look at each file. Raises
        StorageError.
        """
        return self.shards

    def check_kind(self) -> None:  # noqa: B027 (most can't be another)
        """See that the first shards are what they are called. Raises DatasetError."""

    def describe(self) -> str:
        """Tell what lies there instead of usable pairs, and what would be right."""
        return "its shards hold none"


class KeyedFormat(Format):
    """One whose pairs are counted, and their keys known, before any of them is read.

    Each of its shards has a Content, so that it is read without the rest of the dataset.
    """

    _contents: dict[str, Content]

    def _take(self, shards: list[Shard]) -> None:
        self.shards = shards
        self._contents = {shard.name: content_of(shard) for shard in shards}

    @abstractmethod
    def keys(self) -> Strings:
        """Return the keys of all shards' pairs, in order, as large_string. Raises DatasetError."""
        ...

    def cache_shards(self) -> Strings | None:
        """Return the name of the shard, in a cache, that each pair once came from, if it tells."""
        return None

    def read(self, shard: Shard, start: int = 0) -> Iterator[Pair]:
        return content_of(shard).read(shard.name, start, images=self.images)

    def load(self, pair: Pair) -> Pair:
        return self._contents[pair.shard].load(pair)


def content_of(shard: Shard) -> Content:
    if shard.content is None:
        raise TypeError(f"shard {shard.name} is a file of its own")
    return shard.content


class ContentReader:
    """The PairReader of a shard with a Content."""

    def __init__(self, shard: Shard, *, images: bool = True) -> None:
        self.sha256: str | None = None
        self.position = 0
        self._shard = shard
        self._images = images
        self._content = content_of(shard)

    def __iter__(self) -> Iterator[Pair]:
        digest = hashlib.sha256()
        seen: set[str] = set()
        try:
            for pair in self._loaded():
                if pair.key in seen:
                    pair = pair.failed(RowErrorCode.DUPLICATE_KEY, "its key came before")
                seen.add(pair.key)
                self.position += len(pair.image or b"")
                digest.update(b"".join(_content(pair)))
                yield pair
        except (StorageError, UriNotAllowed) as error:
            raise self._error(ShardErrorCode.IO_ERROR, error) from error
        except DatasetError as error:
            raise self._error(ShardErrorCode.TABLE_DAMAGED, error) from error
        if self._images:
            self.sha256 = digest.hexdigest()

    def _loaded(self) -> Iterator[Pair]:
        pairs = self._content.read(self._shard.name, images=self._images)
        with ThreadPoolExecutor(_READERS) as pool:
            while some := list(islice(pairs, _AT_ONCE)):
                yield from pool.map(self._content.load, some)

    def _error(self, code: ShardErrorCode, error: Exception) -> ShardError:
        return ShardError(code, self._shard.name, str(error))


def _content(pair: Pair) -> Iterator[bytes]:
    """What a pair is, so that no two run into one: each part behind its length."""
    if pair.others:
        yield (-1 - len(pair.others)).to_bytes(8, "big", signed=True)
    captions = [caption.encode() for caption in pair.captions] or [None]
    for value in (pair.key.encode(), pair.image, *captions):
        yield (-1 if value is None else len(value)).to_bytes(8, "big", signed=True)
        yield value or b""


def numbered(name: str, number: int) -> str:
    """Name the part of a dataset, or of a file of it, that has this number: ``a.parquet#00003``."""
    return f"{name}#{number:05}"
