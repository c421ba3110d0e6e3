"""The Parquet files of a table: those of shards, a row a pair, and the index of all."""

# pyarrow's stubs leave the parameters of its generic types open.
# pyright: reportUnknownMemberType=false

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas.errors import CacheCorrupt

KEYS = pa.schema([("shard", pa.string()), ("key", pa.string()), ("row", pa.int32())])
_IDENTITY = b"rhocache.table_identity"
_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("shard", pa.string()),
        ("rows", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class TableFile:
    """A line of the index."""

    name: str  # path below the table's folder
    shard: str | None  # whose pairs it has a row of each; None for a file of the kind's own
    rows: int
    size: int  # bytes
    sha256: str

    @classmethod
    def of(cls, name: str, shard: str | None, rows: int, data: bytes) -> Self:
        return cls(name, shard, rows, len(data), hashlib.sha256(data).hexdigest())


def encode(table: pa.Table, identity: str) -> bytes:
    """Return the bytes of a Parquet file, compressed, whose footer holds a table's identity."""
    noted: Any = {**(table.schema.metadata or {}), _IDENTITY: identity.encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(noted), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def rows_of(data: bytes, identity: str) -> int | None:
    """How many rows a file of the table with this identity has.

    None for one that is another's, or damaged.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            if (file.metadata.metadata or {}).get(_IDENTITY) != identity.encode():
                return None
            file.read(use_threads=False)
            return file.metadata.num_rows
    except (pa.ArrowException, OSError):
        return None


def decode(data: bytes, columns: list[str] | None, source: str) -> pa.Table:
    """Read some columns, or all. Raises CacheCorrupt, which calls the file ``source``."""
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            return file.read(columns, use_threads=False)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CacheCorrupt(f"{source} is not a readable Parquet file: {error}") from error


def encode_index(files: Iterable[TableFile]) -> bytes:
    lines = list(files)
    columns = {name: [getattr(line, name) for line in lines] for name in _SCHEMA.names}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=_SCHEMA), sink)
    return sink.getvalue().to_pybytes()


def decode_index(data: bytes, source: str) -> list[TableFile]:
    """Raises CacheCorrupt."""
    try:
        table = decode(data, None, source).cast(_SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable index: {error}") from error
    columns: list[list[Any]] = [column.to_pylist() for column in table.itercolumns()]
    return [TableFile(*values) for values in zip(*columns, strict=True)]
