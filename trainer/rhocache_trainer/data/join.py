"""Pairs to train on, read from a dataset and, with caches, joined with their reference rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from rhocache_schemas.cache.reader import changes
from rhocache_schemas.cache.shard_file import OK
from rhocache_schemas.dataset.formats.base import Format, KeyedFormat
from rhocache_schemas.dataset.keys import Strings
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.dataset.source import OF_ROWS
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
from rhocache_trainer.cache.together import CachesTogether
from rhocache_trainer.data.tar_keys import TarKeys
from rhocache_trainer.loss.references import References

OnMissing = Literal["error", "skip"]
# What of the dataset's pairs is read, and compared with what the references saw.
Reads = Literal["all", "captions", "nothing"]


@dataclass(frozen=True, slots=True)
class JoinedPair:
    """A pair, the number by which a loss knows it, and the reference rows that its key leads to."""

    pair: Pair
    index: int  # from 0 to n − 1; −1 without a row where there is a cache
    row: ReferenceRow | None = None
    others: tuple[ReferenceRow | None, ...] = ()  # of the other caches


class PairSource(Protocol):
    shards: list[Shard]  # with their numbers of rows
    n: int  # numbers that JoinedPair.index runs over
    usable: int  # pairs to expect from one pass over ``shards``
    identity: str  # differs where the numbers or the reference rows do
    references: References | None  # that made the caches, and steer
    cached: slice | None  # of a batch's reference embeddings, those that are towers' own

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
        self.references: References | None = None
        self.cached: slice | None = None

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
    """The pairs of tar shards joined with a cache, or several, by (shard name, key).

    Every pair's image and caption are compared by hash with what each reference saw. A pair without
    a usable row raises MissingPair when it is called for, one that has changed PairMismatch.
    ``read_as`` are the dataset's settings as Source.of_rows has them.

    Raises, when made: CacheIncomplete for shards that a cache lacks and DatasetMismatch for those
    of which caches have other numbers of rows (unless they may be skipped), CacheIncomplete or
    CacheCorrupt for files that are missing or cut short, and FingerprintMismatch when a reference
    took its images or captions from elsewhere.
    """

    def __init__(
        self,
        dataset: Format,
        cache: ReferenceCache,
        read_as: Mapping[str, str | int | None] | None = None,
        *,
        others: Sequence[ReferenceCache] = (),
        references: References | None = None,
        cached: slice | None = None,
        reads: Reads = "all",
        on_missing: OnMissing = "error",
    ) -> None:
        self._caches = caches = CachesTogether([cache, *others])
        self._reads: Reads = reads
        self.cached = cached
        lacking = [error for shard in dataset.shards if (error := caches.lacking(shard.name))]
        if lacking and (on_missing == "error" or len(lacking) == len(dataset.shards)):
            raise lacking[0]
        for each, (name, now) in product(caches.all, (read_as or dict.fromkeys(OF_ROWS)).items()):
            scored = each.manifest.source.of_rows[name]
            if scored != now:
                raise FingerprintMismatch(
                    f"{each.uri} was made with {name}={scored!r}, but the training data have "
                    f"{name}={now!r}"
                )
        self._dataset = dataset
        dataset.images = reads == "all"
        known = [shard for shard in dataset.shards if caches.lacking(shard.name) is None]
        names = [shard.name for shard in known]
        caches.check_files(names)
        if on_missing == "error":
            caches.check_rows(names)
        self.shards = [replace(shard, rows=cache.shards[shard.name].rows) for shard in known]
        self.n = len(cache)
        self.usable = sum(map(caches.ok, names))
        self.identity = caches.identity
        self.references = references

    def numbers(self, shard: Shard) -> npt.NDArray[np.int64]:
        return self._caches.first.first(shard.name) + np.arange(shard.rows or 0)

    def keys(self) -> Iterator[tuple[str, Strings]]:
        return self._caches.first.keys()

    def read(self, shard: Shard, start: int = 0) -> Iterator[JoinedPair]:
        cache = self._caches.first
        if self._reads == "nothing":
            for position in range(start, shard.rows or 0):
                row = cache.row(shard.name, position)
                yield _joined(Pair(shard.name, position, row.key), row, self._caches)
            return
        for pair in self._dataset.read(shard, start):
            position = cache.row_by_key(shard.name, pair.key)
            row = None if position is None else cache.row(shard.name, position)
            yield _joined(pair, row, self._caches)

    def load(self, joined: JoinedPair) -> JoinedPair:
        return _load(self._dataset, self._caches, joined, self._reads)


class KeyedPairs:
    """The pairs of another kind of dataset joined with caches by key, with the same checks.

    Where the dataset tells each pair's shard, by (shard name, key). A table in another order than
    the cache's shards reads each shard as often as it comes back to it.

    Raises, when made: MissingPair for pairs without a usable row in the first cache, and of their
    shards CacheIncomplete for those that others lack and DatasetMismatch for those of which they
    have other numbers of rows (unless they may be skipped), CacheIncomplete when there is no row at
    all, InvalidInput for keys in several shards and for keys that come twice (unless they may be
    skipped), and CacheIncomplete or CacheCorrupt for files that are missing or cut short.
    """

    def __init__(
        self,
        dataset: KeyedFormat | TarKeys,
        cache: ReferenceCache,
        *,
        others: Sequence[ReferenceCache] = (),
        references: References | None = None,
        cached: slice | None = None,
        reads: Reads = "all",
        on_missing: OnMissing = "error",
    ) -> None:
        self._caches = CachesTogether([cache, *others])
        self._reads: Reads = reads
        self.cached = cached
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
        self._check_others(on_missing)
        self._dataset = dataset
        dataset.images = reads == "all"
        self.shards = dataset.shards
        firsts = np.cumsum([0, *(shard.rows or 0 for shard in self.shards)]).tolist()
        self._firsts = {shard.name: firsts[place] for place, shard in enumerate(self.shards)}
        self.n = len(cache)
        self.usable = len(self._rows) - len(missing)
        self.identity = f"{self._caches.identity} {len(self._rows)} pairs"
        self.references = references

    def numbers(self, shard: Shard) -> npt.NDArray[np.int64]:
        first = self._firsts[shard.name]
        return self._rows[first : first + (shard.rows or 0)]

    def keys(self) -> Iterator[tuple[str, Strings]]:
        return self._caches.first.keys()

    def read(self, shard: Shard, start: int = 0) -> Iterator[JoinedPair]:
        first, cache = self._firsts[shard.name], self._caches.first
        pairs = self._dataset.read(shard, start)
        if self._reads == "nothing":
            pairs = (Pair(shard.name, row, str(row)) for row in range(start, shard.rows or 0))
        for pair in pairs:
            number = int(self._rows[first + pair.row])
            row = None if number < 0 else cache.row(*cache.locate(number))
            yield _joined(pair, row, self._caches)

    def load(self, joined: JoinedPair) -> JoinedPair:
        return _load(self._dataset, self._caches, joined, self._reads)

    def _check_others(self, on_missing: OnMissing) -> None:
        """See that the other caches have the shards in which the rows lie."""
        caches = self._caches
        names = caches.first.shards_of(self._rows[self._rows >= 0]) if caches.others else []
        lacking = [error for name in names if (error := caches.lacking(name))]
        if lacking and (on_missing == "error" or len(lacking) == len(names)):
            raise lacking[0]
        known = [name for name in names if caches.lacking(name) is None]
        caches.check_files(known)
        if on_missing == "error":
            caches.check_rows(known)


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


def _joined(pair: Pair, row: ReferenceRow | None, caches: CachesTogether) -> JoinedPair:
    if row is None:
        return JoinedPair(pair, -1)
    return JoinedPair(pair, row.index, row, caches.rows(row))


def _load(
    dataset: Format | TarKeys, caches: CachesTogether, joined: JoinedPair, reads: Reads
) -> JoinedPair:
    row = joined.row
    where = _where(joined.pair.shard if row is None else row.shard, joined.pair)
    rows = zip((row, *joined.others), caches.all, strict=True)
    scored = [_usable(each, cache, where) for each, cache in rows]
    known = scored[0]
    if reads == "nothing":
        return replace(joined, pair=replace(joined.pair, shard=known.shard, key=known.key))
    pair = dataset.load(joined.pair)
    try:
        pair.content()
    except RowError as error:
        detail = f"has a reference row, but is unusable here ({error})"
        raise PairMismatch(f"{where}: {detail}") from error
    for each, cache in zip(scored, caches.all, strict=True):
        imported = cache.manifest.fingerprint.imported
        image_hash = each.image_hash if pair.images else pair.image_hash
        if changed := changes(pair, image_hash, each.caption_hash, imported=imported):
            told = f" in {cache.uri}" if caches.others else ""
            raise PairMismatch(f"{where}: {changed[0]}{told}")
    return replace(joined, pair=replace(pair, shard=known.shard, key=known.key))


def _usable(row: ReferenceRow | None, cache: ReferenceCache, where: str) -> ReferenceRow:
    if row is None:
        raise MissingPair(f"{where}: {cache.uri} has no row for this pair")
    if row.status == RowErrorCode.OVER_LIMIT:
        raise MissingPair(
            f"{where}: it is beyond the --limit that {cache.uri} was made with; score it again "
            "without one, or leave such pairs out with data.on_missing=skip"
        )
    if row.status != OK:
        raise MissingPair(
            f"{where}: the reference of {cache.uri} could not score it ({row.status})"
        )
    return row


def _where(shard: str, pair: Pair) -> str:
    return f"shard {shard}, key {pair.key}"
