"""Reading a committed reference cache: embeddings and hashes by shard, or by (shard, key)."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rhocache_schemas import index as cache_index
from rhocache_schemas import layout, shard_file, storage
from rhocache_schemas.errors import (
    CacheCorrupt,
    CacheIncomplete,
    CacheNotFound,
    FingerprintMismatch,
    InvalidInput,
    MissingPair,
)
from rhocache_schemas.records import Manifest

KEPT_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class ReferenceRows:
    """Rows of a cache as columns: V views and C captions a pair, embeddings of d numbers.

    Embeddings and similarities of rows that are not ok are NaN, never zeros.
    """

    keys: list[str]
    status: list[str]  # ``ok`` or a RowErrorCode
    image: npt.NDArray[np.floating]  # [n, V, d], unit vectors, half or single precision
    text: npt.NDArray[np.floating]  # [n, C, d], unit vectors
    similarity: npt.NDArray[np.float32]  # [n], cosine of view 0 and caption 0
    ok: npt.NDArray[np.bool_]  # [n]
    image_hash: list[bytes | None]  # see rhocache_schemas.pairs
    caption_hash: list[bytes | None]
    index: npt.NDArray[np.int64]  # [n], the rows' numbers in the whole cache

    def __len__(self) -> int:
        return len(self.keys)


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
        self._kept: OrderedDict[str, _KeptShard] = OrderedDict()
        self._kept_bytes = kept_bytes

    @classmethod
    def open(cls, uri: str, *, kept_bytes: int = KEPT_BYTES) -> Self:
        """Open the cache at a local path or URI (file, s3, gs).

        Shards are read when they are first asked for, and checked against the index; the last
        ones, up to ``kept_bytes``, are kept in memory.

        Raises CacheNotFound, CacheIncomplete (no manifest yet), CacheCorrupt (the index is not the
        one that the manifest names) and UnsupportedVersion.
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
            rows = [kept.rows_by_key.get(pairs[position][1], -1) for position in positions]
            missing += [pairs[p] for p, row in zip(positions, rows, strict=True) if row < 0]
            found.append((positions, kept, rows))
        if missing:
            raise MissingPair(
                f"{self.uri} has no row for {len(missing)} of {len(pairs)} pairs: "
                + ", ".join(f"{shard}/{key}" for shard, key in missing[:5])
                + (", ..." if len(missing) > 5 else "")
            )
        return _gather(found)

    def row_by_key(self, shard: str, key: str) -> int | None:
        """Give the position of a key's (first) row in its shard, or None."""
        return self._shard(shard).rows_by_key.get(key)

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
        rows, footer = shard_file.decode(data, source)
        if footer.fingerprint_sha256 != self.manifest.fingerprint_sha256:
            raise FingerprintMismatch(f"{source} was made by another reference than {self.uri}")
        if footer.rows != entry.rows:
            raise CacheCorrupt(f"{source} has {footer.rows} rows, its index entry {entry.rows}")
        offset = self._offsets[name]
        return _KeptShard(
            ReferenceRows(
                rows.keys,
                rows.status,
                rows.image,
                rows.text,
                rows.similarity,
                rows.ok,
                rows.image_hash,
                rows.caption_hash,
                np.arange(offset, offset + footer.rows),
            )
        )


class _KeptShard:
    def __init__(self, rows: ReferenceRows) -> None:
        self.rows = rows
        self.bytes = rows.image.nbytes + rows.text.nbytes
        # Backwards, so that the first row of a repeated key wins: the others are not ok.
        last = len(rows) - 1
        self.rows_by_key = {key: last - row for row, key in enumerate(reversed(rows.keys))}


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
