"""Reading a committed reference cache: embeddings and hashes by shard, or by (shard, key)."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from rhocache_schemas import layout
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.dataset.keys import KeyTable, Strings
from rhocache_schemas.errors import (
    CacheCorrupt,
    FingerprintMismatch,
    InvalidInput,
    MissingPair,
)
from rhocache_trainer.cache.rows import ReferenceRows, decode

KEPT_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """One row of a cache."""

    shard: str
    key: str
    index: int  # its number in the whole cache
    status: str  # ``ok`` or a RowErrorCode
    image: npt.NDArray[np.floating]  # [V, d]
    text: npt.NDArray[np.floating]  # [C, d]
    image_hash: bytes | None
    caption_hash: bytes | None


class ReferenceCache:
    """A committed cache, opened with ``ReferenceCache.open``.

    ``len(cache)`` is its number of rows, ok or not; each has a number from 0 to len(cache) − 1,
    which is what a loss takes as ``index``.
    """

    def __init__(self, reader: CacheReader, kept_bytes: int = KEPT_BYTES) -> None:
        self.reader = reader
        self.uri = reader.uri
        self.manifest = reader.manifest
        self.shards = reader.index
        self._offsets: dict[str, int] = {}
        offset = 0
        for shard in self.shards.values():
            self._offsets[shard.name] = offset
            offset += shard.rows
        if offset != self.manifest.rows:
            raise CacheCorrupt(
                f"{self.uri}: {layout.MANIFEST} names {self.manifest.rows} rows, "
                f"{layout.INDEX} {offset}"
            )
        self._names, self._firsts = list(self._offsets), list(self._offsets.values())
        self._kept = _keep_most(kept_bytes)

    @classmethod
    def open(cls, uri: str, *, kept_bytes: int = KEPT_BYTES) -> Self:
        """Open the cache at a local path or URI (file, s3, gs).

        Shards are read when they are first asked for, and checked against the index; the last
        ones, up to ``kept_bytes``, are kept in memory.

        Raises CacheNotFound, CacheIncomplete (no manifest yet), CacheCorrupt (the index is not the
        one that the manifest names, or tells of other rows) and UnsupportedVersion.
        """
        return cls(CacheReader.open(uri), kept_bytes)

    def __len__(self) -> int:
        return self.manifest.rows

    def shard(self, name: str) -> ReferenceRows:
        """Return all rows of a dataset shard, in tar order.

        Raises CacheIncomplete when the cache has no such shard or its file is missing, CacheCorrupt
        when the file's bytes differ from the index, FingerprintMismatch when another reference
        made it.
        """
        return self._shard(name).rows

    def lookup(self, pairs: Sequence[tuple[str, str]]) -> ReferenceRows:
        """Return the rows of ``(shard name, key)`` pairs, in their order.

        A key may be spelled otherwise than in the cache, as rhocache_schemas.dataset.keys tells,
        where one of the two is the end of the other.

        Rows that are not ok come too, marked in ``ok``. Raises MissingPair, naming the pairs that
        have no row, and what ``shard`` raises.
        """
        if not pairs:
            raise InvalidInput("lookup needs at least one (shard, key) pair")
        by_shard: dict[str, list[int]] = {}
        for position, (shard, _) in enumerate(pairs):
            by_shard.setdefault(shard, []).append(position)
        missing: list[tuple[str, str]] = []
        found: list[tuple[list[int], _KeptShard, list[int]]] = []
        for shard, positions in by_shard.items():
            if shard not in self.shards:
                missing += [pairs[position] for position in positions]
                continue
            kept = self._shard(shard)
            rows = [kept.keys.find(pairs[position][1], whole=True) for position in positions]
            missing += [pairs[p] for p, row in zip(positions, rows, strict=True) if row is None]
            found.append((positions, kept, [row for row in rows if row is not None]))
        if missing:
            raise MissingPair(
                f"{self.uri} has no row for {len(missing)} of {len(pairs)} pairs: "
                + ", ".join(f"{shard}/{key}" for shard, key in missing[:5])
                + (", ..." if len(missing) > 5 else "")
            )
        return _gather(found)

    def row_by_key(self, shard: str, key: str) -> int | None:
        """Return the position of a key's (first) row in its shard, or None.

        It is that of the key by rhocache_schemas.dataset.keys: the hashes have to be compared.
        """
        return self._shard(shard).keys.find(key)

    def row(self, shard: str, row: int) -> ReferenceRow:
        """Return a copy of the row at a position in its shard; raises what ``shard`` does."""
        rows = self._shard(shard).rows
        return ReferenceRow(
            shard,
            rows.keys[row],
            int(rows.index[row]),
            rows.status[row],
            rows.image[row].copy(),
            rows.text[row].copy(),
            rows.image_hash[row],
            rows.caption_hash[row],
        )

    def keys(self) -> Iterator[tuple[str, Strings]]:
        """Yield each shard with the keys of its rows, in their order; nothing else is read."""
        for shard, table in self.reader.columns_of_all(self.shards, ["key"]):
            yield shard, table["key"]

    def first(self, shard: str) -> int:
        """Return the number of a shard's first row in the whole cache."""
        return self._offsets[shard]

    def locate(self, index: int) -> tuple[str, int]:
        """Return the shard of the row with a number in the whole cache, and its position there."""
        shard = bisect_right(self._firsts, index) - 1
        return self._names[shard], index - self._firsts[shard]

    def shards_of(self, numbers: npt.NDArray[np.int64]) -> list[str]:
        """Return the shards in which the rows with these numbers in the whole cache lie."""
        places = np.unique(np.searchsorted(self._firsts, numbers, side="right") - 1)
        return [self._names[place] for place in places.tolist()]

    def _shard(self, name: str) -> "_KeptShard":
        kept = self._kept.get(name)
        if kept is None:
            kept = self._kept[name] = self._read(name)
        return kept

    def _read(self, name: str) -> "_KeptShard":
        data, source = self.reader.shard_bytes(name), layout.shard_file(self.uri, name)
        entry = self.shards[name]
        rows, footer = decode(data, source, self._offsets[name])
        if footer.fingerprint_sha256 != self.manifest.fingerprint_sha256:
            raise FingerprintMismatch(f"{source} was made by another reference than {self.uri}")
        if footer.rows != entry.rows:
            raise CacheCorrupt(f"{source} has {footer.rows} rows, its index entry {entry.rows}")
        return _KeptShard(rows)

    def __getstate__(self) -> dict[str, Any]:
        """A worker process reads its own shards."""
        return {**self.__dict__, "_kept": _keep_most(int(self._kept.maxsize))}


class _KeptShard:
    def __init__(self, rows: ReferenceRows) -> None:
        self.rows = rows
        self.bytes = rows.image.nbytes + rows.text.nbytes
        self.keys = KeyTable(rows.keys)  # the first row of a repeated key: the others are not ok


def _keep_most(kept_bytes: int) -> "LRUCache[str, _KeptShard]":
    """Room for the shards asked for last, and for one whatever its size."""
    most = max(1, kept_bytes)
    return LRUCache(most, getsizeof=partial(_size, most=most))


def _size(kept: _KeptShard, most: int) -> int:
    return min(kept.bytes, most)


def _gather(parts: list[tuple[list[int], _KeptShard, list[int]]]) -> ReferenceRows:
    """Rows of several shards, each part put at the positions that it names."""
    order = np.argsort(np.concatenate([positions for positions, _, _ in parts]))

    def array(column: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(kept.rows, column)[rows] for _, kept, rows in parts])[order]

    def strings(column: str) -> list[Any]:
        values = [getattr(kept.rows, column)[row] for _, kept, rows in parts for row in rows]
        return [values[position] for position in order]

    return ReferenceRows(
        keys=strings("keys"),
        status=strings("status"),
        image=array("image"),
        text=array("text"),
        similarity=array("similarity"),
        ok=array("ok"),
        image_hash=strings("image_hash"),
        caption_hash=strings("caption_hash"),
        index=array("index"),
    )
