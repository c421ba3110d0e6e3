"""A cache whose index is not the one that its manifest names: who says so, and the ways out."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from caches import flip_index

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import CacheCorrupt, CacheIncomplete, DatasetError
from rhocache_schemas.job.kinds import JobOrder
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers import job
from rhocache_workers.maintain.inspect import inspect
from rhocache_workers.maintain.repair import repair
from rhocache_workers.maintain.verify import verify
from rhocache_workers.run.driver import score

pytestmark = pytest.mark.usefixtures("crew_here")


def files(spec: ScoreSpec) -> dict[str, bytes]:
    root = Path(spec.output)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*")}


def shard_file(spec: ScoreSpec, shard: str) -> Path:
    return Path(spec.output, "shards", f"{shard}.parquet")


def break_shard(spec: ScoreSpec, shard: str) -> None:
    data = bytearray(shard_file(spec, shard).read_bytes())
    data[len(data) // 3] ^= 1
    shard_file(spec, shard).write_bytes(data)


@pytest.mark.parametrize(
    "asked",
    [{}, {"retry_failed": True}, {"prune": True}, {"shards": "00001.tar"}],
    ids=["again", "retry", "prune", "some shards"],
)
def test_a_run_names_it_and_changes_nothing(copied: ScoreSpec, asked: dict[str, Any]) -> None:
    told = flip_index(copied.output)
    before = files(copied)
    with pytest.raises(CacheCorrupt, match=rf"{told}: .*rhocache verify --repair"):
        score(copied.model_copy(update=asked))
    assert files(copied) == before


def test_a_services_job_ends_with_it(
    copied: ScoreSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flip_index(copied.output)
    folder = tmp_path / "working"
    folder.mkdir()
    order = JobOrder(job="job_7", start=1, spec=copied, roots=["/"])
    (folder / JobOrder.FILE).write_bytes(order.to_json())
    monkeypatch.chdir(folder)
    monkeypatch.setattr(job.signal, "signal", lambda *_: None)  # this process is the tests'
    assert job.main() == 1
    assert "index.parquet has SHA-256" in capsys.readouterr().err
    fault = json.loads(Path(copied.output, "progress.json").read_text())["fault"]
    assert fault["code"] == "cache-corrupt"
    assert "index.parquet has SHA-256" in fault["detail"]


def test_inspecting_names_it(copied: ScoreSpec) -> None:
    told = flip_index(copied.output)
    with pytest.raises(CacheCorrupt, match=told):
        inspect(copied.output)


def test_verifying_names_it_and_still_looks_at_the_shards(copied: ScoreSpec) -> None:
    flip_index(copied.output)
    (finding,) = (report := verify(copied.output, copied.dataset, sample=0)).findings
    assert finding.where == "index.parquet"
    assert "has SHA-256" in finding.problem
    assert (report.shards, report.rows, report.pairs_compared) == (3, 24, 24)
    break_shard(copied, "00001.tar")
    shard_file(copied, "00002.tar").unlink()
    where = {finding.where for finding in verify(copied.output).findings}
    assert where == {"index.parquet", "shard 00001.tar", "manifest.json"}, "one is missing"


def test_a_repair_makes_it_anew_of_the_shard_files(copied: ScoreSpec) -> None:
    before = files(copied)
    flip_index(copied.output)
    summary = repair(verify(copied.output), dataset=copied.dataset)
    assert (summary.encoded_shards, summary.rows, summary.ok) == (0, 24, 23)
    assert verify(copied.output, copied.dataset, sample=0).findings == []
    after = files(copied)
    assert after["index.parquet"] == before["index.parquet"]
    assert {name for name in after if after[name] != before[name]} <= {
        "manifest.json",  # has the time
        "progress.json",
    }
    assert score(copied).encoded_shards == 0


def test_a_repair_encodes_no_more_than_what_is_broken(
    copied: ScoreSpec, write_tar: Any, pictures: Any
) -> None:
    """Nor a shard that is new in the dataset; and it keeps one that is gone from it."""
    write_tar(Path(copied.dataset) / "00003.tar", pictures[:2])
    Path(copied.dataset, "00000.tar").unlink()
    break_shard(copied, "00001.tar")
    flip_index(copied.output)
    summary = repair(verify(copied.output), dataset=copied.dataset)
    assert (summary.encoded_shards, summary.shards, summary.gone_shards) == (1, 3, 1)
    assert verify(copied.output).findings == []


def test_a_repair_without_an_index_encodes_what_has_no_file(copied: ScoreSpec) -> None:
    Path(copied.output, "index.parquet").unlink()
    shard_file(copied, "00002.tar").unlink()
    with pytest.raises(CacheIncomplete, match=r"no index\.parquet.*--repair"):
        score(copied)
    summary = repair(verify(copied.output), dataset=copied.dataset)
    assert (summary.encoded_shards, summary.shards) == (1, 3)
    assert verify(copied.output).findings == []


def test_replacing_is_a_way_out_too(copied: ScoreSpec, caplog: pytest.LogCaptureFixture) -> None:
    told = flip_index(copied.output)
    assert score(copied.model_copy(update={"replace": True})).encoded_shards == 0
    assert verify(copied.output, copied.dataset, sample=0).findings == []
    assert [record for record in caplog.records if "index.parquet has" in record.message], told


def test_what_is_broken_and_gone_is_given_up_by_replacing_alone(copied: ScoreSpec) -> None:
    flip_index(copied.output)
    break_shard(copied, "00001.tar")
    Path(copied.dataset, "00001.tar").unlink()
    before = files(copied)
    with pytest.raises(DatasetError, match=r"no shard 00001\.tar.*--replace"):
        repair(verify(copied.output), dataset=copied.dataset)
    with pytest.raises(CacheCorrupt):
        score(copied.model_copy(update={"prune": True}))
    assert files(copied) == before
    score(copied.model_copy(update={"replace": True}))
    assert list(CacheReader.open(copied.output).index) == ["00000.tar", "00002.tar"]
    (finding,) = verify(copied.output).findings
    assert (finding.where, finding.problem[-9:]) == ("shards/00001.tar.parquet", "remove it"), (
        "no run removes what it can't tell"
    )


def test_a_copy_of_the_cache_alone_can_be_repaired(copied: ScoreSpec, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.move(copied.output, moved)
    flip_index(moved)
    repair(verify(str(moved)), dataset=copied.dataset)
    assert verify(str(moved)).findings == []
