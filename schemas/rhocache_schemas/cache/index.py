"""``index.parquet``: one row a shard, named by hash from the manifest."""

# pyarrow's stubs leave the parameters of its generic types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas.cache.summary import ShardRounding, ShardSummary
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


_ROW = pa.schema(
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
_SUMMARY = pa.schema(
    [
        ("lowest", pa.float32()),
        ("highest", pa.float32()),
        ("histogram", pa.binary()),
        ("rounding_pairs", pa.int64()),
        ("rounding_mean", pa.float64()),
        ("rounding_p99", pa.float64()),
        ("rounding_max", pa.float64()),
    ]
)
SCHEMA = pa.schema([*_ROW, *_SUMMARY])


def encode(rows: Sequence[IndexRow], summaries: Mapping[str, ShardSummary] | None = None) -> bytes:
    """Return the bytes of an index of these shards, and of what is known of their similarities."""
    known = summaries or {}
    table = pa.Table.from_pylist([record(row, known.get(row.name)) for row in rows], SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def record(row: IndexRow, summary: ShardSummary | None) -> dict[str, Any]:
    """A line of the index, by column."""
    told: dict[str, Any] = {name: getattr(row, name) for name in _ROW.names}
    if summary is not None:
        told |= {name: getattr(summary, name) for name in ("lowest", "highest", "histogram")}
        for name in ("pairs", "mean", "p99", "max"):
            told[f"rounding_{name}"] = getattr(summary.rounding, name, None)
    return told


def row_of(record: Mapping[str, Any]) -> IndexRow:
    return IndexRow(**{name: record[name] for name in _ROW.names})


def summary_of(record: Mapping[str, Any]) -> ShardSummary | None:
    """What a line says of a shard's similarities; None where it is of format 1."""
    if record.get("histogram") is None:
        return None
    measured = [record[f"rounding_{name}"] for name in ("pairs", "mean", "p99", "max")]
    rounding = None if measured[0] is None else ShardRounding(*measured)
    return ShardSummary(record["lowest"], record["highest"], record["histogram"], rounding)


def decode(data: bytes, source: str) -> list[IndexRow]:
    """Raises CacheCorrupt; ``source`` is what its message calls the index."""
    columns = _read(data, source, _ROW).itercolumns()
    lists: list[list[Any]] = [column.to_pylist() for column in columns]
    return [IndexRow(*values) for values in zip(*lists, strict=True)]


def decode_summaries(data: bytes, source: str) -> dict[str, ShardSummary]:
    """What an index says of similarities, by shard; nothing where it is of format 1.

    Raises CacheCorrupt.
    """
    records: list[dict[str, Any]] = _read(
        data, source, pa.schema([_ROW.field("name"), *_SUMMARY]), optional=True
    ).to_pylist()
    found = ((record["name"], summary_of(record)) for record in records)
    return {name: summary for name, summary in found if summary is not None}


def _read(data: bytes, source: str, schema: pa.Schema, *, optional: bool = False) -> pa.Table:
    """Some columns; with ``optional`` no rows where the index does not have them all."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if optional and not set(schema.names) <= set(file.schema_arrow.names):
            return schema.empty_table()
        table = file.read(schema.names, use_threads=False)
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable index: {error}") from error
