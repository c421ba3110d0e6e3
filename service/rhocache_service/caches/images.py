"""The pictures and captions of a cache's pairs, read again from the dataset that was scored."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import Shard, list_shards
from rhocache_schemas.errors import CacheIncomplete
from rhocache_schemas.job.allowed_roots import check_allowed

Place = tuple[str, int]  # shard name and row

_KEPT_BYTES = 64 << 20
# What browsers decode, by its first bytes. Nothing is decoded here: a picture may be hostile.
_TYPES = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n", "image/png"), (b"RIFF", "image/webp"))


class Pictures:
    def __init__(self, roots: list[str]) -> None:
        self._roots = roots
        self._kept: OrderedDict[tuple[str, Place], Pair] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def read(self, manifest: Manifest, places: Iterable[Place]) -> dict[Place, Pair]:
        """Read the pairs at these places, a pass over each shard that has some.

        Those that are not there any more are left out. Raises DatasetError, ShardError,
        StorageError and UriNotAllowed.
        """
        wanted = list(places)
        found = {place: pair for place in wanted if (pair := self._keep(manifest, place))}
        rows: defaultdict[str, set[int]] = defaultdict(set)
        for shard, row in wanted:
            if (shard, row) not in found:
                rows[shard].add(row)
        if rows:
            shards = {shard.name: shard for shard in list_shards(manifest.dataset)}
            for name in rows.keys() & shards.keys():
                check_allowed(shards[name].uri, self._roots)
                for pair in self._pass(shards[name], manifest, rows[name]):
                    found[name, pair.row] = pair
                    self._keep(manifest, (name, pair.row), pair)
        return found

    def _pass(self, shard: Shard, manifest: Manifest, rows: set[int]) -> Iterable[Pair]:
        last = max(rows)
        for pair in ShardReader(shard, manifest.fingerprint.caption_field):
            if pair.row in rows:
                yield pair
            if pair.row == last:
                return

    def _keep(self, manifest: Manifest, place: Place, pair: Pair | None = None) -> Pair | None:
        """Remember a pair; give it, or the one that was remembered."""
        key = manifest.index_sha256, place
        with self._lock:
            if pair is not None and key not in self._kept:
                self._kept[key] = pair
                self._bytes += len(pair.image or b"")
                while self._bytes > _KEPT_BYTES:
                    _, old = self._kept.popitem(last=False)
                    self._bytes -= len(old.image or b"")
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)


def media_type(image: bytes) -> str:
    """Raises CacheIncomplete for what no browser should be given as a picture."""
    for first, kind in _TYPES:
        if image.startswith(first):
            return kind
    raise CacheIncomplete("this pair's picture is of no type that is shown")
