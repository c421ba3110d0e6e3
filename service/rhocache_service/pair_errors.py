"""The pairs and shards of a job's cache that failed, read from the cache itself."""

from collections.abc import Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from rhocache_schemas import layout
from rhocache_schemas.api import PairError, PairErrorList
from rhocache_schemas.listing import failure_files, shard_files
from rhocache_schemas.records import ShardFailure
from rhocache_schemas.shard_file import OK
from rhocache_service.caches import read_columns


def pair_errors(cache: str, limit: int, after: int = 0, code: str | None = None) -> PairErrorList:
    """The failed shards, then the pairs, of one code if it is given: ``limit`` after ``after``.

    Raises StorageError.
    """
    chosen = (error for error in _all(cache) if code in (None, error.code))
    found = list(islice(chosen, after, after + limit + 1))
    return PairErrorList(data=found[:limit], has_more=len(found) > limit)


def _all(cache: str) -> Iterator[PairError]:
    for shard in sorted(failure_files(cache)):
        failure = ShardFailure.read(layout.failure_file(cache, shard))
        yield PairError(shard=failure.shard, code=failure.code, detail=failure.detail)
    for shard in sorted(shard_files(cache)):
        table = read_columns(cache, shard, ["key", "row", "status"])
        failed = table.filter(pc.field("status").cast(pa.string()) != OK)
        for record in failed.to_pylist():
            yield PairError(
                shard=shard, key=record["key"], row=record["row"], code=record["status"]
            )
