"""Finds pairs of a committed cache: by key, by words of their captions, and those that failed."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pyarrow.compute as pc

from rhocache_schemas.abandonment import keep_on
from rhocache_schemas.api import CachedPair
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.pair import hash_caption
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.errors import ShardError
from rhocache_schemas.job.allowed_roots import check_allowed

LOOKED_THROUGH = 5000  # captions, which are in the dataset alone and are read with its pictures
_COLUMNS = ["key", "row", "status", "similarity", "caption_hash"]


def with_text(cache: CacheReader, text: str) -> Iterator[CachedPair]:
    """Yield the pairs whose key or whole caption a text is. Raises CacheError and StorageError."""
    wanted = (pc.field("key") == text) | (pc.field("caption_hash") == hash_caption(text))
    for shard in cache.index:
        for record in cache.columns(shard, _COLUMNS).filter(wanted).to_pylist():
            yield _pair(shard, record)


def with_words(cache: CacheReader, roots: list[str], text: str) -> Iterator[CachedPair]:
    """Yield pairs with every word in their captions, of the first LOOKED_THROUGH of the dataset.

    Raises DatasetError, UriNotAllowed, CacheError and StorageError; a shard that can't be read any
    more is passed over.
    """
    words = text.casefold().split()
    left = LOOKED_THROUGH
    for shard in list_shards(cache.manifest.dataset):
        if left <= 0:
            return
        if shard.name not in cache.index:
            continue
        check_allowed(shard.uri, roots)
        rows: set[int] = set()
        try:
            for pair in islice(ShardReader(shard, cache.manifest.fingerprint.caption_field), left):
                keep_on()
                left -= 1
                caption = (pair.caption or "").casefold()
                if all(word in caption for word in words):
                    rows.add(pair.row)
        except ShardError:
            continue
        yield from _at(cache, shard.name, rows)


def failed_pairs(cache: CacheReader) -> Iterator[CachedPair]:
    """Yield the pairs that can't be used. Raises CacheError and StorageError."""
    for shard in cache.index:
        for row in cache.failures(shard):
            yield CachedPair(shard=shard, key=row.key, row=row.row, status=row.code)


def _at(cache: CacheReader, shard: str, rows: set[int]) -> Iterator[CachedPair]:
    if rows:
        table = cache.columns(shard, _COLUMNS).filter(
            pc.field("row").isin(sorted(rows))  # pyright: ignore[reportUnknownMemberType]
        )
        for record in table.to_pylist():
            yield _pair(shard, record)


def _pair(shard: str, record: dict[str, object]) -> CachedPair:
    value = record["similarity"]
    usable = isinstance(value, float) and np.isfinite(value)
    return CachedPair.model_validate(
        record | {"shard": shard, "similarity": value if usable else None}
    )
