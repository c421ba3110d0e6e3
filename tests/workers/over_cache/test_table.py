"""A job over a cache: what it writes, that it goes on where it was, and what it refuses."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
from caches import commit

from rhocache_schemas.cache.shard_file import ShardRows
from rhocache_schemas.errors import (
    CacheIncomplete,
    CacheNotFound,
    InvalidInput,
    MissingPair,
    TableMismatch,
)
from rhocache_schemas.job.kinds.losses import LossesSpec
from rhocache_schemas.table.documents import Column
from rhocache_schemas.table.reader import TableReader
from rhocache_trainer.data.reference_losses import read_losses
from rhocache_workers.over_cache.contrastive import Losses
from rhocache_workers.over_cache.driver import make_table
from rhocache_workers.over_cache.work import PairWork

D = 8


def shard_rows(rows: int, seed: int, failed: int = 0) -> ShardRows:
    """Random unit vectors; the last ``failed`` pairs have none."""
    generator = np.random.default_rng(seed)
    image, text = (generator.normal(size=(rows, 1, D)) for _ in range(2))
    for each in (image, text):
        each /= np.linalg.norm(each, axis=-1, keepdims=True)
    similarity = (image * text).sum((1, 2)).astype(np.float32)
    status = ["ok"] * (rows - failed) + ["image_missing"] * failed
    return ShardRows(
        keys=[f"key{row}" for row in range(rows)],
        status=status,
        image=image.astype(np.float16),
        text=text.astype(np.float16),
        similarity=similarity,
        image_hash=[bytes(8)] * rows,
        caption_hash=[bytes(8)] * rows,
    )


SHARDS = {
    "a/0.tar": shard_rows(5, 0),
    "a/1.tar": shard_rows(7, 1, failed=2),
    "b.tar": shard_rows(3, 2),
}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return commit(tmp_path / "cache", SHARDS)


class Similarity(PairWork[LossesSpec]):
    """Copies a column, with the spec of a kind that is installed."""

    shown = "similarity"
    dies_at = None  # a shard
    read: ClassVar[list[str]] = []

    def columns(self) -> Sequence[Column]:
        return [Column(name="similarity", type="double", description="as the cache has it")]

    def rows_of(self, shards: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        for shard in shards:
            if shard == self.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.read.append(shard)
            column = self.cache.columns(shard, ["similarity"])["similarity"]
            values = column.to_numpy().astype(float) * (self.spec.tau or 1)
            yield shard, pa.table({"similarity": pa.array(values, mask=np.isnan(values))})


@pytest.fixture(autouse=True)
def _none_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Similarity, "read", [])


def spec_of(cache: Path, /, **fields: object) -> LossesSpec:
    return LossesSpec.model_validate(
        {"cache": str(cache), "output": str(cache.parent / "table")} | fields
    )


def test_a_row_a_pair(cache: Path) -> None:
    made = make_table(spec_of(cache), Similarity, here=True)
    table = TableReader.open(str(cache.parent / "table"))
    assert table.manifest == made
    rows = table.as_table(["similarity"]).to_pylist()
    expected = [
        {"shard": shard, "key": key, "similarity": None if status != "ok" else float(value)}
        for shard, each in SHARDS.items()
        for key, status, value in zip(each.keys, each.status, each.similarity, strict=True)
    ]
    assert rows == expected
    assert table.columns("a/1.tar", ["row"])["row"].to_pylist() == list(range(7))
    known = [row["similarity"] for row in expected if row["similarity"] is not None]
    (spread,) = made.summary.histograms
    assert (sum(spread.counts), spread.low, spread.high) == (13, min(known), max(known))
    highest = made.summary.samples[0]
    assert [row[2] for row in highest.rows] == sorted(known, reverse=True)
    assert (made.rows, made.files) == (15, 3)


def test_what_is_there_is_not_done_again(cache: Path) -> None:
    spec = spec_of(cache)
    made = make_table(spec, Similarity, here=True)
    assert make_table(spec, Similarity, here=True) == made
    assert Similarity.read == list(SHARDS), "the second run read nothing"
    (cache.parent / "table" / "shards" / "b.tar.parquet").write_bytes(b"damaged")
    again = make_table(spec, Similarity, here=True)
    assert Similarity.read[3:] == ["b.tar"]
    assert again.index_sha256 == made.index_sha256


DYING = """
import sys, pathlib, test_table
test_table.Similarity.dies_at = "b.tar"
spec = test_table.spec_of(pathlib.Path(sys.argv[1]))
test_table.make_table(spec, test_table.Similarity, here=True)
"""


def test_a_run_that_is_killed_goes_on(cache: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(cache)],
        env=os.environ | {"PYTHONPATH": path},
        check=False,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.raises(CacheIncomplete, match=r"no table\.json: it is still being made"):
        TableReader.open(str(cache.parent / "table"))
    made = make_table(spec_of(cache), Similarity, here=True)
    assert Similarity.read == ["b.tar"]
    whole = make_table(spec_of(cache, output=str(cache.parent / "other")), Similarity, here=True)
    assert made.index_sha256 == whole.index_sha256


def test_a_cache_that_is_committed_anew_meanwhile(cache: Path) -> None:
    class Meddled(Similarity):
        def rows_of(self, shards: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
            if "b.tar" in shards:
                commit(cache, SHARDS, created_at=5.0)
            yield from super().rows_of(shards)

    with pytest.raises(CacheIncomplete, match=f"{cache} has been committed anew since this job"):
        make_table(spec_of(cache), Meddled, here=True)
    table = cache.parent / "table"
    assert not (table / "table.json").exists()
    assert not (table / "shards" / "b.tar.parquet").exists()
    with pytest.raises(TableMismatch, match="differing: the cache, which is another one or was"):
        make_table(spec_of(cache), Similarity, here=True)
    Similarity.read.clear()
    make_table(spec_of(cache, replace=True), Similarity, here=True)
    assert Similarity.read == list(SHARDS), "what is of the cache before is given up"


def test_another_table_is_there(cache: Path) -> None:
    make_table(spec_of(cache, tau=2.0), Similarity, here=True)
    with pytest.raises(TableMismatch, match=r"differing: tau \(there: 2\.0, now: 3\.0\)\. Use"):
        make_table(spec_of(cache, tau=3.0), Similarity, here=True)
    again = make_table(spec_of(cache, tau=3.0, replace=True), Similarity, here=True)
    assert TableReader.open(str(cache.parent / "table")).manifest == again


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"cache": "none"}, CacheNotFound, "there is no cache at .*none"),
        ({"output": "cache"}, InvalidInput, "lies in the cache"),
        ({"output": "cache/below"}, InvalidInput, "lies in the cache"),
        ({"output": "other"}, TableMismatch, "holds a cache, and no table"),
    ],
)
def test_what_is_refused(cache: Path, change: dict, error: type, match: str) -> None:
    commit(cache.parent / "other", SHARDS)
    fields = {name: str(cache.parent / value) for name, value in change.items()}
    with pytest.raises(error, match=match):
        make_table(spec_of(cache, **fields), Similarity, here=True)
    assert not (cache.parent / "table").exists()
    assert not (cache / "below").exists()


def test_on_ray(cache: Path, ray_address: str) -> None:
    """As a job of a service runs: what raises does so as itself, and what is made is the same."""
    alone = make_table(spec_of(cache), Losses, here=True)
    spec = spec_of(cache, output=str(cache.parent / "other"))
    assert make_table(spec, Losses, ray_address=ray_address).index_sha256 == alone.index_sha256
    (cache / "shards" / "b.tar.parquet").unlink()
    with pytest.raises(CacheIncomplete, match=r"b\.tar\.parquet is in the index"):
        make_table(spec_of(cache, tau=5.0, replace=True), Losses, ray_address=ray_address)


def test_the_trainer_takes_its_folder_for_a_file(cache: Path) -> None:
    """Its column loss by shard and key; a pair without one is missing."""
    make_table(spec_of(cache), Losses, here=True)
    table = str(cache.parent / "table")
    known = TableReader.open(table).columns("b.tar", ["loss"])["loss"].to_pylist()
    found = read_losses(table, [("b.tar", "key2"), ("b.tar", "key0"), ("a/0.tar", "key0")])
    assert found[:2] == [known[2], known[0]]
    with pytest.raises(MissingPair, match=r"no loss for 1 of 1 samples: shard a/1\.tar, key key6"):
        read_losses(table, [("a/1.tar", "key6")])
    with pytest.raises(InvalidInput, match="no column 'weight'; its kind is losses, which has ima"):
        TableReader.open(table).as_table(["weight"])
