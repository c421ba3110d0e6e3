"""Reading a committed reference cache: embeddings and hashes by shard, or by (shard, key)."""

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rhocache_schemas import layout, storage
from rhocache_schemas.cache import index as cache_index
from rhocache_schemas.cache import listing
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.dataset.keys import KeyTable
from rhocache_schemas.errors import (
    CacheCorrupt,
    CacheIncomplete,
    CacheNotFound,
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
    image: npt.NDArray[np.floating]  # [d], view 0
    text: npt.NDArray[np.floating]  # [d], caption 0
    image_hash: bytes | None
    caption_hash: bytes | None


class ReferenceCache:
    """A committed cache, opened with ``ReferenceCache.open``.

    ``len(cache)`` is its number of rows, ok or not; each has a number from 0 to len(cache) − 1,
    which is what a loss takes as ``index``.
    """

    def __init__(
        self,
        uri: str,
        manifest: Manifest,
        shards: list[cache_index.IndexRow],
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.uri = uri
        self.manifest = manifest
        self.shards = {shard.name: shard for shard in shards}
        self._offsets: dict[str, int] = {}
        offset = 0
        for shard in shards:
            self._offsets[shard.name] = offset
            offset += shard.rows
        if offset != manifest.rows:
            raise CacheCorrupt(
                f"{uri}: {layout.MANIFEST} names {manifest.rows} rows, {layout.INDEX} {offset}"
            )
        self._names, self._firsts = list(self._offsets), list(self._offsets.values())
        self._kept: OrderedDict[str, _KeptShard] = OrderedDict()
        self._kept_bytes = kept_bytes

    @classmethod
    def open(cls, uri: str, *, kept_bytes: int = KEPT_BYTES) -> Self:
        """Open the cache at a local path or URI (file, s3, gs).

        Shards are read when they are first asked for, and checked against the index; the last
        ones, up to ``kept_bytes``, are kept in memory.

        Raises CacheNotFound, CacheIncomplete (no manifest yet), CacheCorrupt (the index is not the
        one that the manifest names, or tells of other rows) and UnsupportedVersion.
        """
        if not storage.exists(layout.manifest_file(uri)):
            if storage.exists(layout.plan_file(uri)):
                raise CacheIncomplete(
                    f"{uri} has no {layout.MANIFEST}: it is still being made, or was interrupted; "
                    "run its job again to complete it"
                )
            raise CacheNotFound(f"there is no cache at {uri}: it has no {layout.MANIFEST}")
        manifest = Manifest.read(layout.manifest_file(uri))
        if manifest.fingerprint.digest != manifest.fingerprint_sha256:
            raise CacheCorrupt(f"{uri}: the manifest's fingerprint is not the one it was hashed by")
        source = layout.index_file(uri)
        if not storage.exists(source):
            raise CacheIncomplete(f"{uri} has a {layout.MANIFEST} but no {layout.INDEX}")
        data = storage.read_bytes(source)
        if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
            raise CacheCorrupt(f"{source} differs from the hash in {layout.MANIFEST}")
        return cls(uri, manifest, cache_index.decode(data, source), kept_bytes)

    def __len__(self) -> int:
        return self.manifest.rows

    def shard(self, name: str) -> ReferenceRows:
        """Give all rows of a dataset shard, in tar order.

        Raises CacheIncomplete when the cache has no such shard or its file is missing, CacheCorrupt
        when the file's bytes differ from the index, FingerprintMismatch when another reference
        made it.
        """
        return self._shard(name).rows

    def lookup(self, pairs: Sequence[tuple[str, str]]) -> ReferenceRows:
        """Give the rows of ``(shard name, key)`` pairs, in their order.

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
        """Give the position of a key's (first) row in its shard, or None.

        It is that of the key by rhocache_schemas.dataset.keys: the hashes have to be compared.
        """
        return self._shard(shard).keys.find(key)

    def row(self, shard: str, row: int) -> ReferenceRow:
        """Give a copy of the row at a position in its shard; raises what ``shard`` does."""
        rows = self._shard(shard).rows
        return ReferenceRow(
            shard,
            rows.keys[row],
            int(rows.index[row]),
            rows.status[row],
            rows.image[row, 0].copy(),
            rows.text[row, 0].copy(),
            rows.image_hash[row],
            rows.caption_hash[row],
        )

    def locate(self, index: int) -> tuple[str, int]:
        """Give the shard of the row with a number in the whole cache, and its position there."""
        shard = bisect_right(self._firsts, index) - 1
        return self._names[shard], index - self._firsts[shard]

    def check_files(self, shards: Iterable[str]) -> None:
        """See that the files of these shards are all there, whole as far as their sizes tell.

        Raises CacheIncomplete and CacheCorrupt.
        """
        files = listing.shard_files(self.uri)
        for name in shards:
            source = layout.shard_file(self.uri, name)
            if name not in files:
                raise CacheIncomplete(f"{source} is in the index of {self.uri} but is not there")
            size, indexed = files[name].size, self.shards[name].bytes
            if size != indexed:
                raise CacheCorrupt(f"{source} has {size} bytes, its index entry {indexed}")

    def missing_shard(self, name: str) -> CacheIncomplete:
        """The error that tells why the cache has no shard ``name``."""
        if code := self.manifest.failed_shards.get(name):
            why = f"it could not be read when the cache was made ({code})"
        else:
            why = f"it was made from {self.manifest.dataset}; is this another dataset?"
        return CacheIncomplete(f"{self.uri} has no shard {name}: {why}")

    def _shard(self, name: str) -> "_KeptShard":
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        if name not in self.shards:
            raise self.missing_shard(name)
        kept = self._read(name)
        self._kept[name] = kept
        while len(self._kept) > 1 and sum(k.bytes for k in self._kept.values()) > self._kept_bytes:
            self._kept.popitem(last=False)
        return kept

    def _read(self, name: str) -> "_KeptShard":
        source = layout.shard_file(self.uri, name)
        entry = self.shards[name]
        if not storage.exists(source):
            raise CacheIncomplete(f"{source} is in the index of {self.uri} but is not there")
        data = storage.read_bytes(source)
        if hashlib.sha256(data).hexdigest() != entry.file_sha256:
            raise CacheCorrupt(f"{source} differs from its hash in {layout.INDEX}")
        rows, footer = decode(data, source, self._offsets[name])
        if footer.fingerprint_sha256 != self.manifest.fingerprint_sha256:
            raise FingerprintMismatch(f"{source} was made by another reference than {self.uri}")
        if footer.rows != entry.rows:
            raise CacheCorrupt(f"{source} has {footer.rows} rows, its index entry {entry.rows}")
        return _KeptShard(rows)

    def __getstate__(self) -> dict[str, Any]:
        """A worker process reads its own shards."""
        return {**self.__dict__, "_kept": OrderedDict()}


class _KeptShard:
    def __init__(self, rows: ReferenceRows) -> None:
        self.rows = rows
        self.bytes = rows.image.nbytes + rows.text.nbytes
        self.keys = KeyTable(rows.keys)  # the first row of a repeated key: the others are not ok


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
