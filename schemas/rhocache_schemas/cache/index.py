"""``index.parquet``: one row a shard, named by hash from the manifest."""

# pyarrow's stubs leave the parameters of its generic types open.
# pyright: reportUnknownMemberType=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas.errors import CacheCorrupt


@dataclass(frozen=True, slots=True)
class IndexRow:
    name: str
    rows: int
    ok: int
    failed: int
    bytes: int  # of the shard file
    source_size: int  # bytes of the dataset shard
    source_mtime_ns: int
    source_sha256: str
    content_sha256: str  # of the rows, whatever Parquet writer wrote them
    file_sha256: str  # of the shard file


SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("rows", pa.int64()),
        ("ok", pa.int64()),
        ("failed", pa.int64()),
        ("bytes", pa.int64()),
        ("source_size", pa.int64()),
        ("source_mtime_ns", pa.int64()),
        ("source_sha256", pa.string()),
        ("content_sha256", pa.string()),
        ("file_sha256", pa.string()),
    ]
)


def encode(rows: Sequence[IndexRow]) -> bytes:
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    table = pa.table(columns, schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def decode(data: bytes, source: str) -> list[IndexRow]:
    """Raises CacheCorrupt; ``source`` is what its message calls the index."""
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).cast(SCHEMA)
        columns: list[list[Any]] = [column.to_pylist() for column in table.itercolumns()]
        return [IndexRow(*values) for values in zip(*columns, strict=True)]
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable index: {error}") from error
