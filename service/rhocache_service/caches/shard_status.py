"""The status of each of a job's shards, read from its cache."""

from bisect import bisect_right
from collections.abc import Container, Mapping

from rhocache_schemas import layout
from rhocache_schemas.api import ShardList, ShardStatus
from rhocache_schemas.cache.documents import ShardFailure
from rhocache_schemas.cache.index import IndexRow
from rhocache_schemas.cache.listing import failure_files, shards_there
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.dataset.formats import open_dataset
from rhocache_schemas.job.kinds.score import ScoreSpec


def shard_list(spec: ScoreSpec, limit: int, after: str | None) -> ShardList:
    """Return a page of a job's shards by name.

    Raises DatasetError, CacheError and StorageError.
    """
    names = sorted(shard.name for shard in open_dataset(spec.source, spec.format).shards)
    first = 0 if after is None else bisect_right(names, after)
    names = names[first : first + limit + 1]
    rows, there = committed_rows(spec.output), shards_there(spec.output, names)
    failed = failure_files(spec.output)
    found = [_status(spec.output, name, rows, there, failed) for name in names]
    return ShardList.of(found, limit, names)


def _status(
    cache: str,
    name: str,
    rows: Mapping[str, IndexRow],
    there: Container[str],
    failed: Container[str],
) -> ShardStatus:
    if name in there:
        row = rows.get(name)
        if row is None:
            return ShardStatus(name=name, status="committed")
        return ShardStatus(name=name, status="committed", rows=row.rows, failed=row.failed)
    if name in failed:
        code = ShardFailure.read(layout.failure_file(cache, name)).code
        return ShardStatus(name=name, status="failed", code=code)
    return ShardStatus(name=name, status="pending")


def committed_rows(cache: str) -> Mapping[str, IndexRow]:
    """The index by shard name; empty where nothing is committed. Raises what CacheReader does."""
    found = CacheReader.find(cache)
    return {} if found is None else found.index
