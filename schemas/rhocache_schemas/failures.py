"""The pairs and shards of a cache that failed, read from the cache itself."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from rhocache_schemas import layout
from rhocache_schemas.abandonment import keep_on
from rhocache_schemas.api import PairError, PairErrorList, places
from rhocache_schemas.cache.documents import ShardFailure
from rhocache_schemas.cache.listing import failure_files, shard_files
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.shard_file import FAILED_ROW, failed_rows, read_columns
from rhocache_schemas.table.reader import is_table

_SAMPLES = 5


@dataclass(slots=True)
class Failed:
    """What failed with a code: how many, and a few of them."""

    count: int = 0
    samples: list[PairError] = field(default_factory=list[PairError])


def pair_errors(cache: str, limit: int, after: int = 0, code: str | None = None) -> PairErrorList:
    """The failed shards, then the pairs, of one code if it is given: ``limit`` after ``after``.

    Raises CacheError and StorageError.
    """
    chosen = (error for error in _all(cache) if code in (None, error.code))
    found = list(islice(chosen, after, after + limit + 1))
    return PairErrorList.of(found, limit, places(after))


def errors_by_code(cache: str, failed_by_code: Mapping[str, int]) -> dict[str, Failed]:
    """Failed shards and pairs by code, with samples; the pairs were counted when they were made.

    Reads no further than it must. Raises CacheError and StorageError.
    """
    found = defaultdict[str, Failed](Failed)
    missing = sum(min(count, _SAMPLES) for count in failed_by_code.values())
    for code, count in failed_by_code.items():
        found[code].count = count
    for error in _all(cache):
        group = found[error.code]
        if error.key is None:
            group.count += 1
        elif not missing:
            break
        if len(group.samples) < _SAMPLES:
            group.samples.append(error)
            missing -= error.key is not None
    return dict(found)


def _all(cache: str) -> Iterator[PairError]:
    if is_table(cache):  # which has no failures
        return
    for shard in sorted(failure_files(cache)):
        failure = ShardFailure.read(layout.failure_file(cache, shard))
        yield PairError(shard=failure.shard, code=failure.code, detail=failure.detail)
    committed = CacheReader.find(cache)
    for shard in sorted(shard_files(cache)):
        if committed is not None and shard in committed.index:
            failed = committed.failures(shard)
        else:  # of a job that goes on
            keep_on()
            failed = failed_rows(read_columns(layout.shard_file(cache, shard), FAILED_ROW))
        for row in failed:
            yield PairError(shard=shard, key=row.key, row=row.row, code=row.code)
