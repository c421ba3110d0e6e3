"""Pairs to train on, read from a dataset and, with a cache, joined with their reference rows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.reader import changes
from rhocache_schemas.cache.shard_file import OK
from rhocache_schemas.dataset.formats.base import Format, KeyedFormat
from rhocache_schemas.dataset.keys import Strings
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import (
    CacheIncomplete,
    FingerprintMismatch,
    InvalidInput,
    MissingPair,
    PairMismatch,
    RowError,
    RowErrorCode,
)
from rhocache_trainer.cache.key_index import find_rows
from rhocache_trainer.cache.reader import ReferenceCache, ReferenceRow

OnMissing = Literal["error", "skip"]


@dataclass(frozen=True, slots=True)
class JoinedPair:
    """A pair, the number by which a loss knows it, and the reference row that its key leads to."""

    pair: Pair
    index: int  # from 0 to n − 1; −1 without a row where there is a cache
    row: ReferenceRow | None = None


class PairSource(Protocol):
    shards: list[Shard]  # with their numbers of rows
    n: int  # numbers that JoinedPair.index runs over
    usable: int  # pairs to expect from one pass over ``shards``
    identity: str  # differs where the numbers or the reference rows do
    manifest: Manifest | None  # of the cache

    def numbers(self, shard: Shard) -> npt.NDArray[np.int64]:
        """Return the index of each of a shard's pairs, in order; −1 for one without a row."""
        ...

    def keys(self) -> Iterator[tuple[str, Strings]] | None:
        """Yield shards with their keys, in the order of the index; None where no cache has them."""
        ...

    def read(self, shard: Shard, start: int = 0) -> Iterator[JoinedPair]:
        """Yield a shard's pairs from the one at position ``start`` on. One thread at a time."""
        ...

    def load(self, joined: JoinedPair) -> JoinedPair:
        """Return a pair that was read with its content, compared with its row. In any thread.

        It has the shard and key by which the cache knows it, so that it is augmented alike wherever
        it is read from. Raises MissingPair, PairMismatch or RowError for one that can't be used.
        """
        ...


class PlainPairs:
    """The pairs of a dataset alone, numbered in the order of its shards.

    Making one reads tar shards once, to count.
    """

    def __init__(self, dataset: Format) -> None:
        self.shards: list[Shard] = []
        self.n = self.usable = 0
        self._dataset = dataset
        self._offsets: dict[str, int] = {}
        for shard in dataset.shards:
            rows, usable = _count(dataset, shard)
            self.shards.append(replace(shard, rows=rows))
            self._offsets[shard.name] = self.n
            self.n += rows
            self.usable += usable
        self.identity = f"{self.n} pairs in {len(self.shards)} shards"
        self.manifest: Manifest | None = None

    def numbers(self, shard: Shard) -> npt.NDArray[np.int64]:
        return self._offsets[shard.name] + np.arange(shard.rows or 0)

    def keys(self) -> None:
        return None

    def read(self, shard: Shard, start: int = 0) -> Iterator[JoinedPair]:
        for pair in self._dataset.read(shard, start):
            yield JoinedPair(pair, self._offsets[shard.name] + pair.row)

    def load(self, joined: JoinedPair) -> JoinedPair:
        pair = self._dataset.load(joined.pair)
        try:
            pair.content()
        except RowError as error:
            raise RowError(error.code, f"{_where(pair.shard, pair)}: {error}") from error
        return JoinedPair(pair, joined.index)


class CachedPairs:
    """The pairs of tar shards joined with a cache by (shard name, key).

    Every pair's image and caption are compared by hash with what the reference saw. A pair without
    a usable row raises MissingPair when it is called for, one that has changed PairMismatch.

    Raises, when made: CacheIncomplete for shards that the cache lacks (unless they may be skipped),
    CacheIncomplete or CacheCorrupt for files of it that are missing or cut short, and
    FingerprintMismatch when the reference took its captions from elsewhere.
    """

    def __init__(
        self,
        dataset: Format,
        cache: ReferenceCache,
        caption_field: str | None = None,
        *,
        on_missing: OnMissing = "error",
    ) -> None:
        lacking = [shard.name for shard in dataset.shards if shard.name not in cache.shards]
        if lacking and (on_missing == "error" or len(lacking) == len(dataset.shards)):
            raise cache.reader.missing_shard(lacking[0])
        scored_field = cache.manifest.fingerprint.caption_field
        if scored_field != caption_field:
            raise FingerprintMismatch(
                f"{cache.uri} was made with caption_field={scored_field!r}, but the training data "
                f"have caption_field={caption_field!r}"
            )
        self._dataset = dataset
        self._cache = cache
        known = [shard for shard in dataset.shards if shard.name in cache.shards]
        names = [shard.name for shard in known]
        cache.reader.check_files(names)
        self.shards = [replace(shard, rows=cache.shards[shard.name].rows) for shard in known]
        self.n = len(cache)
        self.usable = sum(cache.shards[name].ok for name in names)
        self.identity = cache.manifest.index_sha256
        self.manifest: Manifest | None = cache.manifest

    def numbers(self, shard: Shard) -> npt.NDArray[np.int64]:
        return self._cache.first(shard.name) + np.arange(shard.rows or 0)

    def keys(self) -> Iterator[tuple[str, Strings]]:
        return self._cache.keys()

    def read(self, shard: Shard, start: int = 0) -> Iterator[JoinedPair]:
        for pair in self._dataset.read(shard, start):
            position = self._cache.row_by_key(shard.name, pair.key)
            yield _joined(pair, None if position is None else self._cache.row(shard.name, position))

    def load(self, joined: JoinedPair) -> JoinedPair:
        return _load(self._dataset, self._cache, joined)


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
        self, dataset: KeyedFormat, cache: ReferenceCache, *, on_missing: OnMissing = "error"
    ) -> None:
        cache.reader.check_files(cache.shards)
        keys = dataset.keys()
        self._rows = find_rows(cache, keys, dataset.cache_shards())
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
        self._dataset = dataset
        self._cache = cache
        self.shards = dataset.shards
        firsts = np.cumsum([0, *(shard.rows or 0 for shard in self.shards)]).tolist()
        self._firsts = {shard.name: firsts[place] for place, shard in enumerate(self.shards)}
        self.n = len(cache)
        self.usable = len(self._rows) - len(missing)
        self.identity = f"{cache.manifest.index_sha256} {len(self._rows)} pairs"
        self.manifest: Manifest | None = cache.manifest

    def numbers(self, shard: Shard) -> npt.NDArray[np.int64]:
        first = self._firsts[shard.name]
        return self._rows[first : first + (shard.rows or 0)]

    def keys(self) -> Iterator[tuple[str, Strings]]:
        return self._cache.keys()

    def read(self, shard: Shard, start: int = 0) -> Iterator[JoinedPair]:
        first = self._firsts[shard.name]
        for pair in self._dataset.read(shard, start):
            number = int(self._rows[first + pair.row])
            yield _joined(
                pair, None if number < 0 else self._cache.row(*self._cache.locate(number))
            )

    def load(self, joined: JoinedPair) -> JoinedPair:
        return _load(self._dataset, self._cache, joined)


def _repeats(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The places of the numbers from 0 on that were there before."""
    repeats = rows >= 0
    repeats[np.unique(rows, return_index=True)[1]] = False
    return np.flatnonzero(repeats)


def _count(dataset: Format, shard: Shard) -> tuple[int, int]:
    """How many pairs a shard has, and how many of them are usable as far as one can tell."""
    if shard.rows is not None:
        return shard.rows, shard.rows
    pairs = [dataset.load(pair).checked().error is None for pair in dataset.read(shard)]
    return len(pairs), sum(pairs)


def _joined(pair: Pair, row: ReferenceRow | None) -> JoinedPair:
    return JoinedPair(pair, -1 if row is None else row.index, row)


def _load(dataset: Format, cache: ReferenceCache, joined: JoinedPair) -> JoinedPair:
    row = joined.row
    where = _where(joined.pair.shard if row is None else row.shard, joined.pair)
    if row is None:
        raise MissingPair(f"{where}: {cache.uri} has no row for this pair")
    if row.status == RowErrorCode.OVER_LIMIT:
        raise MissingPair(
            f"{where}: it is beyond the --limit that the cache was made with; score it again "
            "without one, or leave such pairs out with data.on_missing=skip"
        )
    if row.status != OK:
        raise MissingPair(f"{where}: the reference could not score it ({row.status})")
    pair = dataset.load(joined.pair)
    try:
        pair.content()
    except RowError as error:
        detail = f"has a reference row, but is unusable here ({error})"
        raise PairMismatch(f"{where}: {detail}") from error
    if changed := changes(pair, row.image_hash, row.caption_hash):
        raise PairMismatch(f"{where}: {changed[0]}")
    return JoinedPair(replace(pair, shard=row.shard, key=row.key), row.index, row)


def _where(shard: str, pair: Pair) -> str:
    return f"shard {shard}, key {pair.key}"
