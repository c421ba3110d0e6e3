"""What failed, by code."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import ShardFailure
from rhocache_schemas.failures import errors_by_code, pair_errors

from ..service.made import SHARD, make_cache


def test_samples_of_each_code(tmp_path: Path) -> None:
    spec = make_cache(tmp_path, {f"{number:03}": "caption" for number in range(9)}, missing="004")
    for number in range(7):
        failure = ShardFailure(
            shard=f"torn-{number}.tar", code="tar_truncated", detail="it ends early", failed_at=1.0
        )
        storage.write_atomic(layout.failure_file(spec.output, failure.shard), failure.to_json())
    failed = errors_by_code(spec.output, {"image_missing": 1})
    assert {code: group.count for code, group in failed.items()} == {
        "image_missing": 1,
        "tar_truncated": 7,
    }
    assert [error.shard for error in failed["tar_truncated"].samples] == [
        f"torn-{number}.tar" for number in range(5)
    ]
    (sample,) = failed["image_missing"].samples
    assert (sample.shard, sample.key, sample.row) == (SHARD, "004", 4)
    assert pair_errors(spec.output, 1, code="image_missing").data == [sample]


def test_nothing_failed(tmp_path: Path) -> None:
    assert errors_by_code(str(tmp_path), {}) == {}


def test_a_table_has_no_failures(tmp_path: Path) -> None:
    """A table's files lie as a cache's do, and have no status."""
    Path(layout.table_plan(str(tmp_path))).write_text("{}")
    (tmp_path / "shards").mkdir()
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "shards" / "0.tar.parquet")
    assert errors_by_code(str(tmp_path), {}) == {}
    assert pair_errors(str(tmp_path), 5).data == []
