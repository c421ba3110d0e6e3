"""The pairs and shards of a job's cache that failed, read from the cache itself."""

from collections.abc import Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from rhocache_schemas import storage
from rhocache_schemas.api import PairError, PairErrorList
from rhocache_schemas.errors import StorageError
from rhocache_schemas.records import ShardFailure
from rhocache_schemas.shard_file import OK


def pair_errors(cache: str, limit: int, after: int = 0, code: str | None = None) -> PairErrorList:
    """The failed shards, then the pairs, of one code if it is given: ``limit`` after ``after``.

    Raises StorageError.
    """
    chosen = (error for error in _all(cache) if code in (None, error.code))
    try:
        found = list(islice(chosen, after, after + limit + 1))
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"cannot read the shard files of {cache}: {error}") from error
    return PairErrorList(data=found[:limit], has_more=len(found) > limit)


def _all(cache: str) -> Iterator[PairError]:
    for _, _, uri in _files(cache, "failures", ".json"):
        failure = ShardFailure.read(uri)
        yield PairError(shard=failure.shard, code=failure.code, detail=failure.detail)
    for filesystem, path, uri in _files(cache, "shards", ".parquet"):
        table = pq.read_table(path, filesystem=filesystem, columns=["key", "row", "status"])
        failed = table.filter(pc.field("status").cast(pa.string()) != OK)
        shard = uri.rpartition("/shards/")[2].removesuffix(".parquet")
        for record in failed.to_pylist():
            yield PairError(
                shard=shard, key=record["key"], row=record["row"], code=record["status"]
            )


def _files(cache: str, folder: str, suffix: str) -> Iterator[tuple[fs.FileSystem, str, str]]:
    filesystem, path = storage.resolve(storage.join(cache, folder))
    prefix = cache.partition("://")[0] + "://" if "://" in cache else ""
    selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
    for info in sorted(filesystem.get_file_info(selector), key=lambda info: info.path):
        if info.path.endswith(suffix):
            yield filesystem, info.path, prefix + info.path
