"""Shards that are done: their lines in the index, and what their rows came to."""

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas import layout, storage
from rhocache_schemas.dataset import Shard
from rhocache_schemas.errors import CacheCorrupt, RowErrorCode
from rhocache_schemas.index import IndexRow
from rhocache_schemas.shard_file import OK, Totals
from rhocache_workers.stages import Stages


@dataclass(frozen=True, slots=True)
class SettledShard:
    index: IndexRow
    failed_by_code: Counter[str]
    stages: Stages | None = None  # where this run encoded it

    @property
    def retryable(self) -> bool:
        """Whether it has rows that another try may mend."""
        return any(RowErrorCode(code).retryable for code in self.failed_by_code)


def settle(
    shard: Shard, totals: Totals, source_sha256: str, stages: Stages | None = None
) -> SettledShard:
    """Sum up a shard file."""
    failed = totals.failed_by_code.total()
    return SettledShard(
        IndexRow(
            name=shard.name,
            rows=totals.rows,
            ok=totals.rows - failed,
            failed=failed,
            bytes=totals.size,
            source_size=shard.size,
            source_mtime_ns=shard.mtime_ns,
            source_sha256=source_sha256,
            content_sha256=totals.content_sha256,
            file_sha256=totals.file_sha256,
        ),
        totals.failed_by_code,
        stages,
    )


def status_counts(cache: str, shard: str) -> Counter[str]:
    """Count the row error codes of a shard file, which the index does not keep.

    Raises CacheCorrupt.
    """
    table = read_columns(layout.shard_file(cache, shard), ["status"])
    return Counter(code for code in map(str, table["status"].to_pylist()) if code != OK)


def read_columns(uri: str, columns: list[str]) -> pa.Table:
    """Read some columns of a shard file, and not the others.

    Raises CacheCorrupt.
    """
    filesystem, path = storage.resolve(uri)
    try:
        with filesystem.open_input_file(path) as file:
            return pq.ParquetFile(file).read(columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CacheCorrupt(f"{uri} is not a readable shard file: {error}") from error
