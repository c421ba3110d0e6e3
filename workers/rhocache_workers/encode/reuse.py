"""Finds the rows that other caches have of pairs, so that these need not be encoded again."""

# pyarrow's stubs leave the parameters of its generic types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import logging
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from cachetools import LRUCache

from rhocache_schemas import layout
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.rows import ShardRows
from rhocache_schemas.cache.shard_file import OK, RowGroup, decode_row_groups, read_row_group
from rhocache_schemas.cache.summary import ShardRounding
from rhocache_schemas.cache.vectors import Codes
from rhocache_schemas.dataset.pair import HASH_BYTES, Pair, hash_captions, hash_image
from rhocache_schemas.errors import CacheCorrupt, CacheError, InvalidInput, StorageError
from rhocache_schemas.text import printable

log = logging.getLogger(__name__)

_GROUP_BYTES = 256 << 20  # of embeddings in row groups that an encoder keeps
_ODD = np.uint64(0x9E3779B97F4A7C15)

Mixes = npt.NDArray[np.uint64]
Hashes = tuple[bytes | None, bytes | None]  # of an image and a caption


@dataclass(frozen=True, slots=True)
class Table:
    """Where a cache has its usable rows: 16 bytes for each, beside the names of its shards."""

    cache: CacheReader
    shards: list[str]
    hash_bytes: int
    by_name: bool  # shard and key count too: of several views all but one are drawn by them
    mixes: Mixes  # [n], ascending; of the hashes of each row
    places: npt.NDArray[np.uint64]  # [n], the number of its shard, and in the lower half its own


def tabulate(cache: CacheReader) -> Table:
    """Read the hashes of a cache's usable rows. Of two rows of one pair the first is found.

    Raises CacheIncomplete, CacheCorrupt and StorageError.
    """
    by_name = cache.manifest.fingerprint.view_count > 1
    columns = ["image_hash", "caption_hash", "row", "status", *(["key"] if by_name else [])]
    shards = list(cache.index)
    width, mixes, places = HASH_BYTES, [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for number, (shard, table) in enumerate(cache.columns_of_all(shards, columns)):
        width = table["image_hash"].type.byte_width
        rows = table.filter(pc.field("status").cast(pa.string()) == OK)
        words = np.column_stack([_words(rows[name]) for name in columns[:2]])
        names = [(shard, str(key)) for key in rows["key"].to_pylist()] if by_name else None
        mixes.append(_mix(words, names))
        places.append(np.uint64(number << 32) + rows["row"].to_numpy().astype(np.uint64))
    mixed, placed = np.concatenate(mixes), np.concatenate(places)
    order = np.argsort(mixed, kind="stable")
    fresh = CacheReader(cache.uri, cache.manifest)  # without an index, as it is sent to encoders
    return Table(fresh, shards, width, by_name, mixed[order], placed[order])


def _words(hashes: Any) -> Mixes:
    """The column of hashes of k words as [n, k]."""
    array, width = hashes.combine_chunks(), hashes.type.byte_width // 8
    own = slice(array.offset * width, (array.offset + len(array)) * width)
    return np.frombuffer(array.buffers()[1], ">u8")[own].reshape(-1, width).astype(np.uint64)


def _mix(words: Mixes, names: Sequence[tuple[str, str]] | None) -> Mixes:
    """One number of each pair's words [n, k], which are as good as random, and of its name."""
    if names is not None:
        named = [xxhash.xxh3_64_intdigest("\0".join(name).encode()) for name in names]
        words = np.column_stack([words, np.array(named, np.uint64)])
    mixed = np.zeros(len(words), np.uint64)
    for word in words.T:
        mixed = (mixed ^ word) * _ODD
    return mixed


@dataclass(frozen=True, slots=True)
class Found:
    """The row of a pair, as a cache has it."""

    image: npt.NDArray[np.floating]  # [V, d]
    text: npt.NDArray[np.floating]  # [c, d], of its captions
    similarity: np.float32
    codes: tuple[Codes, Codes] | None  # of image and text, each of one row; of int8 alone
    rounding: ShardRounding | None  # that its shard file states

    @classmethod
    def of(cls, group: RowGroup, row: int) -> "Found":
        rows = group.rows
        captions = rows.text.shape[1] if rows.captions is None else int(rows.captions[row])
        return cls(
            rows.image[row].copy(),  # a view would keep its whole row group in memory
            rows.text[row, :captions].copy(),
            rows.similarity[row],
            rows.codes and (_code(rows.codes[0], row), _code(rows.codes[1], row, captions)),
            group.footer.rounding,
        )


def _code(codes: Codes, row: int, most: int | None = None) -> Codes:
    return Codes(codes.codes[row, :most].copy(), codes.scales[row, :most].copy())


class Reused:
    """What some caches have of pairs. Threads may share it, though one at a time reads."""

    def __init__(self, tables: Sequence[Table]) -> None:
        groups: _Groups = LRUCache(_GROUP_BYTES, _size)
        self._sources = [_Source(table, groups) for table in tables]
        self._lock = threading.Lock()

    def find(self, pairs: Sequence[Pair], hashes: Sequence[Hashes]) -> list[Found | None]:
        """Look for pairs, by the hashes of their images and captions, in the first cache first.

        A row group is read once for all of them. One that can't be read, or is not what its cache
        had when the job began, is told of, and its pairs are not found: encoding them is slower,
        but right.
        """
        found: list[Found | None] = [None] * len(pairs)
        with self._lock:
            for source in self._sources:
                left = [
                    number
                    for number, pair in enumerate(pairs)
                    if found[number] is None and pair.error is None and all(hashes[number])
                ]
                asked = [pairs[number] for number in left]
                for at, row in source.find(asked, [hashes[number] for number in left]):
                    found[left[at]] = row
        return found


_Groups = LRUCache[tuple[str, str, int], RowGroup]  # by cache, shard and first row


def _size(group: RowGroup) -> int:
    rows = group.rows
    own = [rows.image, rows.text, *(each.codes for each in rows.codes or ())]
    return sum(each.nbytes for each in own)


class _Source:
    """One cache, whose row groups are kept with those of others."""

    def __init__(self, table: Table, groups: _Groups) -> None:
        self._table = table
        self._groups = groups
        self._starts: dict[str, list[int]] = {}  # of the row groups of each shard that was checked
        self._broken: set[str] = set()

    def find(self, pairs: Sequence[Pair], hashes: Sequence[Hashes]) -> Iterator[tuple[int, Found]]:
        table = self._table
        if not (len(table.mixes) and pairs):
            return
        if table.hash_bytes != HASH_BYTES:
            hashes = [_hashes(pair, table.hash_bytes) for pair in pairs]
        joined = b"".join(each or b"" for both in hashes for each in both)
        words = np.frombuffer(joined, ">u8").reshape(len(pairs), -1).astype(np.uint64)
        names = [(pair.shard, pair.key) for pair in pairs] if table.by_name else None
        mixed = _mix(words, names)
        at = np.minimum(np.searchsorted(table.mixes, mixed), len(table.mixes) - 1)
        hits = np.flatnonzero(table.mixes[at] == mixed)
        places = table.places[at[hits]]
        order = np.argsort(places)
        for number, place in zip(hits[order].tolist(), places[order].tolist(), strict=True):
            shard, row = table.shards[place >> 32], place & 0xFFFFFFFF
            group = self._group(shard, row)
            if group is None or (table.by_name and shard != pairs[number].shard):
                continue
            # The mix alone may be that of another pair.
            key = pairs[number].key if table.by_name else None
            if _has(group.rows, row - group.start, hashes[number], key):
                yield number, Found.of(group, row - group.start)

    def _group(self, shard: str, row: int) -> RowGroup | None:
        if shard in self._broken:
            return None
        try:
            return self._read(shard, row)
        except (CacheError, InvalidInput, StorageError) as error:
            self._broken.add(shard)
            log.warning("its pairs are encoded, not reused: %s", printable(str(error)))
            return None

    def _read(self, shard: str, row: int) -> RowGroup:
        cache = self._table.cache
        uri = layout.shard_file(cache.uri, shard)
        starts = self._starts.get(shard)
        if starts is None:
            return self._check(shard, row)
        start = starts[bisect_right(starts, row) - 1]
        group = self._groups.get((cache.uri, shard, start))
        if group is None:
            group = read_row_group(uri, start)
            if group.footer.fingerprint_sha256 != cache.manifest.fingerprint_sha256:
                raise CacheCorrupt(f"{uri} has become that of another fingerprint")
            self._keep(shard, group)
        return group

    def _check(self, shard: str, row: int) -> RowGroup:
        """Read a file for the first time, as a whole: rows of a damaged one must not spread."""
        cache = self._table.cache
        uri = layout.shard_file(cache.uri, shard)
        starts: list[int] = []
        found = None
        for group in decode_row_groups(cache.shard_bytes(shard), uri):
            starts.append(group.start)
            self._keep(shard, group)
            if group.start <= row < group.stop:
                found = group
        if found is None:
            raise CacheCorrupt(f"{uri} has no row {row}, as it had when it was looked at")
        self._starts[shard] = starts
        return found

    def _keep(self, shard: str, group: RowGroup) -> None:
        if _size(group) <= self._groups.maxsize:
            self._groups[self._table.cache.uri, shard, group.start] = group


def _hashes(pair: Pair, width: int) -> Hashes:
    return hash_image(pair.image or b"", width), hash_captions(pair.captions, width)


def _has(rows: ShardRows, row: int, hashes: Hashes, key: str | None) -> bool:
    """Whether a row is of a pair with these hashes, and this key where it counts."""
    if row >= len(rows.keys) or rows.status[row] != OK:
        return False
    same = (rows.image_hash[row], rows.caption_hash[row]) == hashes
    return same and key in (None, rows.keys[row])
