"""How the service treats jobs of every kind that reads a cache and writes a table."""

from bisect import bisect_right
from typing import TypeVar

from rhocache_schemas import layout
from rhocache_schemas.api import ShardList, ShardStatus, Validation
from rhocache_schemas.cache.listing import shards_there
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import CacheIncomplete
from rhocache_schemas.job.over_cache import CacheJobSpec
from rhocache_schemas.table.reader import TableReader
from rhocache_schemas.table.standing import check_output
from rhocache_service.jobs.kinds import JobKind
from rhocache_service.registry.jobs import Registry

Spec = TypeVar("Spec", bound=CacheJobSpec)


class CacheKind(JobKind[Spec]):
    """What its spec alone does not say, a kind says by overriding a method."""

    makes_tables = True

    def __init__(self, spec: type[Spec]) -> None:
        self.how = spec.how

    def check(self, spec: Spec) -> None:
        """Refuse an output that holds something else. Raises as check_output does."""
        check_output(spec)

    def preview(self, spec: Spec, roots: list[str], registry: Registry) -> Validation:  # noqa: ARG002
        """Raises CacheNotFound, CacheIncomplete, CacheCorrupt and StorageError."""
        cache = CacheReader.open(spec.cache)
        index = cache.index
        there = shards_there(spec.output, list(index))
        return Validation(
            shards=len(index),
            shards_committed=len(there),
            source_bytes=sum(row.bytes for row in index.values()),
            pairs=cache.manifest.rows,
            fingerprint=cache.manifest.fingerprint_sha256,
            dimension=cache.manifest.dimension,
            dtype=cache.manifest.fingerprint.dtype,
        )

    def validate(self, spec: Spec, roots: list[str]) -> int:  # noqa: ARG002
        """None as long as the cache is still to be made. Raises as check_output does."""
        check_output(spec)
        cache = CacheReader.find(spec.cache)
        return 0 if cache is None else len(cache.index)

    def awaits(self, spec: Spec) -> str:
        return spec.cache

    def outcome(self, spec: Spec) -> None:
        """Raises CacheIncomplete where there is no table."""
        if TableReader.find(spec.output) is None:
            raise CacheIncomplete(f"its driver ended well, but {spec.output} has no {layout.TABLE}")

    def shards(self, spec: Spec, limit: int, after: str | None) -> ShardList:
        """A page of the cache's shards; none where their rows have no files."""
        cache = CacheReader.find(spec.cache)
        names = [] if cache is None else sorted(cache.index)
        names = names[0 if after is None else bisect_right(names, after) :][: limit + 1]
        there = shards_there(spec.output, names)
        found = [
            ShardStatus(name=name, status="committed" if name in there else "pending")
            for name in names
        ]
        return ShardList.of(found, limit, names)
