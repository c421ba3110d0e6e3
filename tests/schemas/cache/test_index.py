from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rhocache_schemas.cache import index
from rhocache_schemas.cache.summary import ShardRounding, ShardSummary
from rhocache_schemas.errors import CacheCorrupt

ROW = index.IndexRow("a/0.tar", 10, 9, 1, 4096, 20480, 1, "aa", "bb", "cc")


def test_round_trip() -> None:
    assert index.decode(index.encode([ROW, ROW]), "here") == [ROW, ROW]


def test_summaries_come_back_by_shard() -> None:
    measured = ShardSummary(-0.5, 0.25, b"histogram", ShardRounding(4, 1e-4, 2e-4, 3e-4))
    unmeasured = ShardSummary(None, None, b"none", None)
    known = {"a": measured, "b": unmeasured}
    data = index.encode([replace(ROW, name=name) for name in "abc"], known)
    assert index.decode_summaries(data, "here") == known
    assert [row.name for row in index.decode(data, "here")] == ["a", "b", "c"]


@pytest.mark.parametrize("rows", [[], [ROW]])
def test_its_columns(rows: list[index.IndexRow]) -> None:
    file = pq.ParquetFile(pa.BufferReader(index.encode(rows)))
    numbers = ["rows", "ok", "failed", "bytes", "source_size", "source_mtime_ns"]
    hashes = ["source_sha256", "content_sha256", "file_sha256"]
    assert file.schema_arrow == pa.schema(
        [("name", pa.string())]
        + [(name, pa.int64()) for name in numbers]
        + [(name, pa.string()) for name in hashes]
        + [("lowest", pa.float32()), ("highest", pa.float32()), ("histogram", pa.binary())]
        + [("rounding_pairs", pa.int64())]
        + [(f"rounding_{name}", pa.float64()) for name in ("mean", "p99", "max")]
    )
    assert index.decode(index.encode(rows), "here") == rows


def other_columns() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"name": ["a/0.tar"], "rows": ["many"]}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("data", [b"", b"PAR1", index.encode([ROW])[:-5], other_columns()])
def test_garbage_is_named(data: bytes) -> None:
    with pytest.raises(CacheCorrupt, match="here is not a readable index"):
        index.decode(data, "here")
