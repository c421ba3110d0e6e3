"""Finds pairs of a committed cache: by key, by words of their captions, and those that failed."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rhocache_schemas.abandonment import keep_on
from rhocache_schemas.api import CachedPair
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.dataset.formats import read_shard
from rhocache_schemas.dataset.pair import hash_caption
from rhocache_schemas.errors import ShardError
from rhocache_schemas.job.allowed_roots import open_allowed

LOOKED_THROUGH = 5000  # captions at once: they are in the dataset alone, read with its pictures
_COLUMNS = ["key", "row", "status", "similarity"]


def with_key(cache: CacheReader, key: str) -> Iterator[CachedPair]:
    """Yield the pairs of a key, in each shard that has it. Raises CacheError and StorageError."""
    for shard, table in cache.columns_of_all(cache.index, _COLUMNS):
        yield from _matching(shard, table, pc.field("key") == key)


def with_text(cache: CacheReader, text: str) -> Iterator[CachedPair]:
    """Yield the pairs whose key or whole caption a text is. Raises CacheError and StorageError."""
    for shard, table in cache.columns_of_all(cache.index, [*_COLUMNS, "caption_hash"]):
        yield from _matching(shard, table, _is(text, table))


@dataclass(frozen=True, slots=True)
class Look:
    """What one look through captions has found, and where the next one begins."""

    pairs: list[CachedPair]
    captions: int  # that were looked at
    next: int | None  # the first shard of the next look; None: that was all


def with_words(cache: CacheReader, roots: list[str], text: str, first: int) -> Look:
    """Find pairs with every word in a caption, from the dataset's shard number ``first`` on.

    Whole shards are read, until LOOKED_THROUGH captions have been looked at. What ``with_text``
    finds is left out.

    Raises DatasetError, UriNotAllowed, CacheError and StorageError; a shard that can't be read any
    more is passed over.
    """
    words = text.casefold().split()
    captions = 0
    pairs: list[CachedPair] = []
    source = cache.manifest.source
    shards = open_allowed(source, cache.manifest.format, roots).shards
    for number, shard in enumerate(shards[first:], first):
        if captions >= LOOKED_THROUGH:
            return Look(pairs, captions, number)
        if shard.name not in cache.index:
            continue
        rows: set[int] = set()
        with suppress(ShardError):
            for pair in read_shard(shard, source):
                keep_on()
                captions += len(pair.captions) or 1
                folded = [caption.casefold() for caption in pair.captions]
                if any(all(word in caption for word in words) for caption in folded):
                    rows.add(pair.row)
        if rows:
            among = pc.field("row").isin(sorted(rows))  # pyright: ignore[reportUnknownMemberType]
            table = cache.columns(shard.name, [*_COLUMNS, "caption_hash"])
            pairs.extend(_matching(shard.name, table, among & ~_is(text, table)))
    return Look(pairs, captions, None)


def failed_pairs(cache: CacheReader) -> Iterator[CachedPair]:
    """Yield the pairs that can't be used. Raises CacheError and StorageError."""
    for shard in cache.index:
        for row in cache.failures(shard):
            yield CachedPair(shard=shard, key=row.key, row=row.row, status=row.code)


def _is(text: str, table: pa.Table) -> pc.Expression:
    """Whether a pair's key or whole caption is a text; a failed pair may have no caption."""
    kind = cast("pa.FixedSizeBinaryType", table["caption_hash"].type)
    caption = pc.field("caption_hash")
    there = cast("pc.Expression", caption.is_valid())
    return (pc.field("key") == text) | (there & (caption == hash_caption(text, kind.byte_width)))


def _matching(shard: str, table: pa.Table, wanted: pc.Expression) -> Iterator[CachedPair]:
    for record in table.filter(wanted).to_pylist():
        value = record["similarity"]
        usable = value is not None and np.isfinite(value)
        yield CachedPair.model_validate(
            record | {"shard": shard, "similarity": value if usable else None}
        )
