"""Caches of the same pairs, each made by another reference: a pair's rows in all of them."""

from collections.abc import Iterable, Sequence

from rhocache_schemas.errors import CacheError, DatasetMismatch, InvalidInput
from rhocache_trainer.cache.reader import ReferenceCache, ReferenceRow


class CachesTogether:
    """The caches that a dataset is joined with. The first one numbers the pairs.

    Raises InvalidInput where two of them are the same.
    """

    def __init__(self, caches: Sequence[ReferenceCache]) -> None:
        self.first, *self.others = self.all = list(caches)
        seen: dict[str, str] = {}
        for cache in self.all:
            if same := seen.get(cache.manifest.index_sha256):
                raise InvalidInput(
                    f"cache names {same} and {cache.uri}, which are the same; give each once, and "
                    "let one count for more with references.weights"
                )
            seen[cache.manifest.index_sha256] = cache.uri

    @property
    def identity(self) -> str:
        return " ".join(cache.manifest.index_sha256 for cache in self.all)

    def lacking(self, shard: str) -> CacheError | None:
        """The error that tells which cache has no such shard, and why; None where all have it."""
        without = next((cache for cache in self.all if shard not in cache.shards), None)
        return None if without is None else without.reader.missing_shard(shard)

    def ok(self, shard: str) -> int:
        """At most so many pairs of a shard are usable."""
        return min(cache.shards[shard].ok for cache in self.all)

    def check_files(self, shards: Iterable[str]) -> None:
        """See that the files of these shards are there. Raises CacheIncomplete and CacheCorrupt."""
        names = list(shards)
        for cache in self.all:
            cache.reader.check_files(names)

    def check_rows(self, shards: Iterable[str]) -> None:
        """See that all have as many rows of these shards. Raises DatasetMismatch."""
        for name in shards:
            expected = self.first.shards[name].rows
            for cache in self.others:
                if (rows := cache.shards[name].rows) != expected:
                    raise DatasetMismatch(
                        f"{cache.uri} has {rows} rows of shard {name}, and {self.first.uri} "
                        f"{expected}: score both caches from the same dataset"
                    )

    def rows(self, row: ReferenceRow) -> tuple[ReferenceRow | None, ...]:
        """Return a pair's rows in the other caches, by its row in the first; None for none."""
        return tuple(_same_row(cache, row) for cache in self.others)


def _same_row(cache: ReferenceCache, row: ReferenceRow) -> ReferenceRow | None:
    if row.shard not in cache.shards:
        return None
    position = cache.row_by_key(row.shard, row.key)
    return None if position is None else cache.row(row.shard, position)
