"""The pictures and captions of a cache's pairs, read again from the dataset that was scored."""

import threading
from collections import defaultdict
from collections.abc import Iterable

from cachetools import LRUCache

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.dataset.formats import read_shard
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import CacheIncomplete
from rhocache_schemas.job.allowed_roots import find_allowed

Place = tuple[str, int]  # shard name and row

_KEPT_BYTES = 64 << 20
# What browsers decode, by its first bytes. Nothing is decoded here: a picture may be hostile.
_TYPES = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n", "image/png"), (b"RIFF", "image/webp"))


class Pictures:
    def __init__(self, roots: list[str]) -> None:
        self._roots = roots
        self._kept: LRUCache[tuple[str, Place], Pair] = LRUCache(_KEPT_BYTES, getsizeof=_size)
        self._lock = threading.Lock()

    def read(self, manifest: Manifest, places: Iterable[Place]) -> dict[Place, Pair]:
        """Read the pairs at these places, a pass over each shard that has some.

        Those that are not there any more are left out. Raises DatasetError, ShardError,
        StorageError and UriNotAllowed.
        """
        wanted = list(places)
        with self._lock:
            kept = {place: self._kept.get((manifest.index_sha256, place)) for place in wanted}
        found = {place: pair for place, pair in kept.items() if pair is not None}
        rows: defaultdict[str, set[int]] = defaultdict(set)
        for shard, row in wanted:
            if (shard, row) not in found:
                rows[shard].add(row)
        if rows:
            shards = find_allowed(manifest.source, manifest.format, rows, self._roots)
            for name in shards:
                for pair in self._pass(shards[name], manifest, rows[name]):
                    found[name, pair.row] = pair
                    with self._lock:
                        self._kept[manifest.index_sha256, (name, pair.row)] = pair
        return found

    def _pass(self, shard: Shard, manifest: Manifest, rows: set[int]) -> Iterable[Pair]:
        last = max(rows)
        for pair in read_shard(shard, manifest.source):
            if pair.row in rows:
                yield pair
            if pair.row == last:
                return


def _size(pair: Pair) -> int:
    return min(len(pair.image or b"-"), _KEPT_BYTES)  # a larger one is kept alone


def media_type(image: bytes) -> str:
    """Raises CacheIncomplete for what no browser should be given as a picture."""
    for first, kind in _TYPES:
        if image.startswith(first):
            return kind
    raise CacheIncomplete("this pair's picture is of no type that is shown")
