"""Pairs to train on, read from a dataset and, with a cache, joined with their reference rows."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from rhocache_schemas.dataset import Shard
from rhocache_schemas.errors import (
    FingerprintMismatch,
    MissingPair,
    PairMismatch,
    RhocacheError,
    RowError,
)
from rhocache_schemas.pairs import Pair, hash_caption, hash_image
from rhocache_schemas.shard_file import OK
from rhocache_schemas.tar_shard import ShardReader
from rhocache_trainer.cache import ReferenceCache

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


class PairSource(Protocol):
    shards: list[Shard]
    n: int  # numbers that Sample.index runs over
    usable: int  # pairs to expect from one pass over ``shards``
    identity: str  # differs where the numbers or the reference rows do
    skipped: Counter[str]  # error code -> pairs left out since it was last cleared

    def read(self, shard: Shard) -> Iterator[Sample]: ...

    def leave_out(self, error: RhocacheError) -> None:
        """Count a pair that can't be used, or raise its error where nothing may be skipped."""
        ...


class _Source:
    def __init__(self, shards: list[Shard], on_missing: OnMissing) -> None:
        self.shards = shards
        self.skipped: Counter[str] = Counter()
        self._on_missing = on_missing

    def leave_out(self, error: RhocacheError) -> None:
        if self._on_missing == "error":
            raise error
        self.skipped[error.code] += 1


class PlainPairs(_Source):
    """The pairs of a dataset alone, numbered in the order of its shards.

    Making one reads the dataset once, to count.
    """

    def __init__(
        self,
        shards: list[Shard],
        *,
        caption_field: str | None = None,
        on_missing: OnMissing = "error",
    ) -> None:
        super().__init__(shards, on_missing)
        self._caption_field = caption_field
        self._offsets: dict[str, int] = {}
        self.n = self.usable = 0
        for shard in shards:
            self._offsets[shard.name] = self.n
            for pair in ShardReader(shard, caption_field):
                self.n += 1
                self.usable += pair.error is None
        self.identity = f"{self.n} pairs in {len(shards)} shards"

    def read(self, shard: Shard) -> Iterator[Sample]:
        offset = self._offsets[shard.name]
        for pair in ShardReader(shard, self._caption_field):
            if pair.error is not None:
                where = f"shard {shard.name}, key {pair.key}"
                self.leave_out(RowError(pair.error, f"{where}: {pair.error}"))
                continue
            image, caption = _contents(pair)
            yield Sample(shard.name, pair.key, offset + pair.row, image, caption)


class CachedPairs(_Source):
    """The pairs of a dataset joined with a cache by (shard name, key).

    Every pair's image and caption are compared by hash with what the reference saw. A pair without
    a usable row raises MissingPair, one that has changed PairMismatch, or is left out and counted
    with ``on_missing="skip"``.

    Raises, when made: CacheIncomplete for shards that the cache lacks (unless they may be skipped)
    and FingerprintMismatch when the reference took its captions from elsewhere.
    """

    def __init__(
        self,
        shards: list[Shard],
        cache: ReferenceCache,
        *,
        caption_field: str | None = None,
        on_missing: OnMissing = "error",
    ) -> None:
        lacking = [shard.name for shard in shards if shard.name not in cache.shards]
        if lacking and (on_missing == "error" or len(lacking) == len(shards)):
            raise cache.missing_shard(lacking[0])
        super().__init__([s for s in shards if s.name in cache.shards], on_missing)
        scored_field = cache.manifest.fingerprint.caption_field
        if scored_field != caption_field:
            raise FingerprintMismatch(
                f"{cache.uri} was made with caption_field={scored_field!r}, but the training data "
                f"have caption_field={caption_field!r}"
            )
        self._cache = cache
        self._caption_field = caption_field
        self.n = len(cache)
        self.usable = sum(cache.shards[shard.name].ok for shard in self.shards)
        self.identity = cache.manifest.index_sha256

    def read(self, shard: Shard) -> Iterator[Sample]:
        for pair in ShardReader(shard, self._caption_field):
            try:
                yield self._join(shard.name, pair)
            except (MissingPair, PairMismatch) as error:
                self.leave_out(error)

    def _join(self, shard: str, pair: Pair) -> Sample:
        rows = self._cache.shard(shard)
        row = self._cache.row_by_key(shard, pair.key)
        where = f"shard {shard}, key {pair.key}"
        if row is None:
            raise MissingPair(f"{where}: {self._cache.uri} has no row for this pair")
        if rows.status[row] != OK:
            raise MissingPair(f"{where}: the reference could not score it ({rows.status[row]})")
        if pair.error is not None:
            raise PairMismatch(f"{where}: has a reference row, but is unusable here ({pair.error})")
        image, caption = _contents(pair)
        if hash_image(image) != rows.image_hash[row]:
            raise PairMismatch(f"{where}: the image is not the one that the reference scored")
        if hash_caption(caption) != rows.caption_hash[row]:
            raise PairMismatch(f"{where}: the caption is not the one that the reference scored")
        return Sample(
            shard,
            pair.key,
            int(rows.index[row]),
            image,
            caption,
            rows.image[row, 0],
            rows.text[row, 0],
        )


def _contents(pair: Pair) -> tuple[bytes, str]:
    """Image and caption of a pair without an error, which has both."""
    return cast("bytes", pair.image), cast("str", pair.caption)
