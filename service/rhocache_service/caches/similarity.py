"""Committed caches, read as they lie in storage."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rhocache_schemas import layout, storage
from rhocache_schemas.abandonment import keep_on
from rhocache_schemas.api import CachedPair
from rhocache_schemas.cache import index, shard_file
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.errors import CacheIncomplete, StorageError


@dataclass(frozen=True, slots=True)
class Similarities:
    """Of the usable pairs of a cache, in order: where each lies, and what it is."""

    shards: list[str]
    shard: np.ndarray  # int32 [n], into shards
    row: np.ndarray  # int32 [n]
    similarity: np.ndarray  # float32 [n], ascending

    def pair(self, rank: int, key: str) -> CachedPair:
        return CachedPair(
            shard=self.shards[self.shard[rank]],
            key=key,
            row=int(self.row[rank]),
            status="ok",
            similarity=float(self.similarity[rank]),
            rank=rank,
        )


def read_similarities(cache: str) -> Similarities:
    """Sort the pairs of a committed cache by similarity: 12 bytes a pair.

    Raises CacheError and StorageError.
    """
    shards = [row.name for row in _index(cache)]
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for number, shard in enumerate(shards):
        table = read_columns(cache, shard, ["row", "similarity"])
        values = table["similarity"].to_numpy()
        usable = np.isfinite(values)
        rows = table["row"].to_numpy()[usable]
        parts.append((np.full(len(rows), number, np.int32), rows, values[usable]))
    columns = [np.concatenate(part) for part in zip(*parts, strict=True)] if parts else []
    if not columns:
        empty = np.empty(0, np.int32)
        return Similarities(shards, empty, empty, np.empty(0, np.float32))
    order = np.argsort(columns[2], kind="stable")
    return Similarities(shards, *(column[order] for column in columns))


class Remembered:
    """What was read of the last few caches, as long as their manifests stay the same."""

    MOST = 4

    def __init__(self, read: Callable[[str], Similarities]) -> None:
        self._read = read
        self._found: OrderedDict[tuple[str, str], Similarities] = OrderedDict()
        self._lock = threading.Lock()  # a cache is read once, whoever asks

    def get(self, cache: str) -> Similarities:
        key = cache, read_manifest(cache).index_sha256
        with self._lock:
            if key not in self._found:
                self._found[key] = self._read(cache)
            self._found.move_to_end(key)
            while len(self._found) > self.MOST:
                self._found.popitem(last=False)
            return self._found[key]


def pairs_at(cache: str, ranked: Similarities, ranks: Sequence[int]) -> list[CachedPair]:
    """The pairs of these ranks. Raises CacheError and StorageError."""
    keys: dict[str, pa.ChunkedArray] = {}
    found: list[CachedPair] = []
    for rank in ranks:
        shard = ranked.shards[ranked.shard[rank]]
        if shard not in keys:
            keys[shard] = read_columns(cache, shard, ["key"])["key"]
        found.append(ranked.pair(rank, keys[shard][int(ranked.row[rank])].as_py()))
    return found


def find_key(cache: str, key: str) -> Iterator[CachedPair]:
    """The pairs of a key, in each shard that has it."""
    for shard in _index(cache):
        table = read_columns(cache, shard.name, ["key", "row", "status", "similarity"])
        for record in table.filter(pc.field("key") == key).to_pylist():
            value = record["similarity"]
            usable = value is not None and np.isfinite(value)
            yield CachedPair(
                shard=shard.name,
                key=key,
                row=record["row"],
                status=record["status"],
                similarity=value if usable else None,
            )


def read_columns(cache: str, shard: str, columns: list[str]) -> pa.Table:
    uri = layout.shard_file(cache, shard)
    keep_on()
    try:
        return shard_file.read_columns(uri, columns)
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"cannot read {uri}: {error}") from error


def _index(cache: str) -> list[index.IndexRow]:
    uri = layout.index_file(cache)
    if not storage.exists(layout.manifest_file(cache)):
        raise CacheIncomplete(f"{cache} has no manifest any more")
    return index.decode(storage.read_bytes(uri), uri)


def read_manifest(cache: str) -> Manifest:
    uri = layout.manifest_file(cache)
    if not storage.exists(uri):
        raise CacheIncomplete(f"{cache} has no manifest any more")
    return Manifest.read(uri)
