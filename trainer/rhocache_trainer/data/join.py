"""Pairs to train on, read from a dataset and, with a cache, joined with their reference rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.reader import changes
from rhocache_schemas.cache.shard_file import OK
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.errors import (
    CacheIncomplete,
    FingerprintMismatch,
    InvalidInput,
    MissingPair,
    PairMismatch,
    RowError,
)
from rhocache_trainer.cache.key_index import find_rows
from rhocache_trainer.cache.reader import ReferenceCache, ReferenceRow
from rhocache_trainer.data.formats.base import Container, KeyedContainer, Part, Record
from rhocache_trainer.data.formats.webdataset import TarShards

OnMissing = Literal["error", "skip"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A usable pair, not decoded yet."""

    shard: str
    key: str
    index: int  # the pair's number, from 0 to n − 1
    image: bytes
    caption: str
    reference_image: npt.NDArray[np.floating] | None = None  # [d'], unit vector
    reference_text: npt.NDArray[np.floating] | None = None  # [d']


# Gives a pair when it is called, in any thread; raises MissingPair, PairMismatch or RowError for
# one that can't be used.
Pending = Callable[[], Sample]


class PairSource(Protocol):
    parts: list[Part]  # with their numbers of rows
    n: int  # numbers that Sample.index runs over
    usable: int  # pairs to expect from one pass over ``parts``
    identity: str  # differs where the numbers or the reference rows do
    manifest: Manifest | None  # of the cache

    def read(self, part: Part, start: int = 0) -> Iterator[Pending]:
        """Give the pairs of a part from the one at position ``start`` on. One thread at a time."""
        ...


class PlainPairs:
    """The pairs of a dataset alone, numbered in the order of its parts.

    Making one reads tar shards once, to count.
    """

    def __init__(self, container: Container) -> None:
        self.parts: list[Part] = []
        self.n = self.usable = 0
        self._container = container
        self._offsets: dict[str, int] = {}
        for part in container.parts:
            rows, usable = _count(container, part)
            self.parts.append(Part(part.name, rows))
            self._offsets[part.name] = self.n
            self.n += rows
            self.usable += usable
        self.identity = f"{self.n} pairs in {len(self.parts)} shards"
        self.manifest: Manifest | None = None

    def read(self, part: Part, start: int = 0) -> Iterator[Pending]:
        for record in self._container.read(part, start):
            yield partial(self._sample, part.name, record)

    def _sample(self, part: str, record: Record) -> Sample:
        try:
            image, caption = record.content()
        except RowError as error:
            raise RowError(error.code, f"{_where(part, record)}: {error}") from error  # pyright: ignore[reportArgumentType]
        return Sample(part, record.key, self._offsets[part] + record.row, image, caption)


class CachedPairs:
    """The pairs of tar shards joined with a cache by (shard name, key).

    Every pair's image and caption are compared by hash with what the reference saw. A pair without
    a usable row raises MissingPair when it is called for, one that has changed PairMismatch.

    Raises, when made: CacheIncomplete for shards that the cache lacks (unless they may be skipped),
    CacheIncomplete or CacheCorrupt for files of it that are missing or cut short, and
    FingerprintMismatch when the reference took its captions from elsewhere.
    """

    def __init__(
        self, container: TarShards, cache: ReferenceCache, *, on_missing: OnMissing = "error"
    ) -> None:
        lacking = [part.name for part in container.parts if part.name not in cache.shards]
        if lacking and (on_missing == "error" or len(lacking) == len(container.parts)):
            raise cache.reader.missing_shard(lacking[0])
        scored_field = cache.manifest.fingerprint.caption_field
        if scored_field != container.caption_field:
            raise FingerprintMismatch(
                f"{cache.uri} was made with caption_field={scored_field!r}, but the training data "
                f"have caption_field={container.caption_field!r}"
            )
        self._container = container
        self._cache = cache
        names = [part.name for part in container.parts if part.name in cache.shards]
        cache.reader.check_files(names)
        self.parts = [Part(name, cache.shards[name].rows) for name in names]
        self.n = len(cache)
        self.usable = sum(cache.shards[name].ok for name in names)
        self.identity = cache.manifest.index_sha256
        self.manifest: Manifest | None = cache.manifest

    def read(self, part: Part, start: int = 0) -> Iterator[Pending]:
        for record in self._container.read(part, start):
            position = self._cache.row_by_key(part.name, record.key)
            row = None if position is None else self._cache.row(part.name, position)
            yield partial(_join, self._cache.uri, part.name, record, row)


class KeyedPairs:
    """The pairs of another kind of dataset joined with a cache by key, with the same checks.

    Where the dataset tells each pair's shard, by (shard name, key). A table in another order than
    the cache's shards reads each shard as often as it comes back to it.

    Raises, when made: MissingPair for pairs without a usable row (unless they may be skipped),
    CacheIncomplete when there is none but those, InvalidInput for keys in several shards and for
    keys that come twice (unless they may be skipped), and CacheIncomplete or CacheCorrupt for files
    of the cache that are missing or cut short.
    """

    def __init__(
        self, container: KeyedContainer, cache: ReferenceCache, *, on_missing: OnMissing = "error"
    ) -> None:
        cache.reader.check_files(cache.shards)
        keys = container.keys()
        self._rows = find_rows(cache, keys, container.shards())
        repeats = _repeats(self._rows)
        if len(repeats) and on_missing == "error":
            raise InvalidInput(
                f"{len(repeats)} pairs of the dataset have the key of one before them, such as "
                f"{keys[int(repeats[0])]}; a batch must not hold the same pair twice"
            )
        self._rows[repeats] = -1
        missing = np.flatnonzero(self._rows < 0)
        if len(missing) == len(self._rows):
            shard, row = cache.locate(0)
            raise CacheIncomplete(
                f"{cache.uri} has no usable row for any of the {len(missing)} pairs, such as key "
                f"{keys[0]}: it was made from {cache.manifest.dataset}, whose first key is "
                f"{cache.row(shard, row).key}; is this another dataset?"
            )
        if len(missing) and on_missing == "error":
            raise MissingPair(
                f"{cache.uri} has no usable row for {len(missing)} of {len(self._rows)} pairs: "
                + ", ".join(str(keys[int(place)]) for place in missing[:5])
                + (", ..." if len(missing) > 5 else "")
            )
        self._container = container
        self._cache = cache
        self.parts = container.parts
        rows = [part.rows or 0 for part in self.parts]
        firsts = np.cumsum([0, *rows]).tolist()
        self._firsts = {part.name: firsts[place] for place, part in enumerate(self.parts)}
        self.n = len(cache)
        self.usable = len(self._rows) - len(missing)
        self.identity = f"{cache.manifest.index_sha256} {len(self._rows)} pairs"
        self.manifest: Manifest | None = cache.manifest

    def read(self, part: Part, start: int = 0) -> Iterator[Pending]:
        first = self._firsts[part.name]
        for record in self._container.read(part, start):
            number = int(self._rows[first + record.row])
            shard, row = part.name, None
            if number >= 0:
                shard, position = self._cache.locate(number)
                row = self._cache.row(shard, position)
            yield partial(_join, self._cache.uri, shard, record, row)


def _repeats(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The places of the numbers from 0 on that were there before."""
    repeats = rows >= 0
    repeats[np.unique(rows, return_index=True)[1]] = False
    return np.flatnonzero(repeats)


def _count(container: Container, part: Part) -> tuple[int, int]:
    """How many pairs a part has, and how many of them are usable as far as one can tell."""
    if part.rows is not None:
        return part.rows, part.rows
    rows = usable = 0
    for record in container.read(part, 0):
        rows += 1
        try:
            record.content()
        except RowError:
            continue
        usable += 1
    return rows, usable


def _join(cache: str, shard: str, record: Record, row: ReferenceRow | None) -> Sample:
    where = _where(shard, record)
    if row is None:
        raise MissingPair(f"{where}: {cache} has no row for this pair")
    if row.status != OK:
        raise MissingPair(f"{where}: the reference could not score it ({row.status})")
    try:
        image, caption = record.content()
    except RowError as error:
        detail = f"has a reference row, but is unusable here ({error})"
        raise PairMismatch(f"{where}: {detail}") from error
    now = hash_image(image), hash_caption(caption)
    if changed := changes(now, (row.image_hash, row.caption_hash)):
        raise PairMismatch(f"{where}: {changed[0]}")
    # Its key in the cache: a pair is augmented alike wherever it is read from.
    return Sample(shard, row.key, row.index, image, caption, row.image, row.text)


def _where(shard: str, record: Record) -> str:
    return f"shard {shard}, key {record.key}"
