import dataclasses
import functools
import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from actors import actors

from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.documents import Manifest, Plan, Progress, ShardFailure
from rhocache_schemas.cache.lease import Lease
from rhocache_schemas.errors import (
    CacheBusy,
    DatasetError,
    ErrorBudgetExceeded,
    FingerprintMismatch,
    InvalidInput,
    JobError,
    StorageError,
    UriNotAllowed,
)
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.maintain.verify import verify
from rhocache_workers.messages import ShardInProgress
from rhocache_workers.run import driver
from rhocache_workers.run.driver import ScoreSummary, score


def read_progress(spec: ScoreSpec) -> Progress:
    return Progress.read(f"{spec.output}/progress.json")


def shard_files(spec: ScoreSpec) -> dict[str, tuple[int, int]]:
    """Name -> inode and modification time: what changes when a file is written again."""
    files = sorted((Path(spec.output) / "shards").glob("*.parquet"))
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def contents(spec: ScoreSpec) -> dict[str, bytes]:
    """Shard files and index: what is the same whatever became of a run."""
    root = Path(spec.output)
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*.parquet")}


def test_encoders_elsewhere_get_what_a_folders_shards_are_read_from(
    tmp_path: Path, spec: ScoreSpec, pictures: list[dict[str, bytes]], ray_address: str
) -> None:
    for members in pictures:
        for name, data in members.items():
            (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "files" / name).write_bytes(data)
    spec = spec.model_copy(update={"dataset": str(tmp_path / "files")})
    summary = score(spec, ray_address=ray_address, roots=[str(tmp_path), "/"])
    assert (summary.ok, summary.shards) == (24, 1)
    assert verify(spec.output, deep=True).findings == []


def test_a_run_commits_every_shard(scored: ScoreSpec) -> None:
    root = Path(scored.output)
    manifest = Manifest.read(f"{root}/manifest.json")
    index = pq.read_table(root / "index.parquet").to_pylist()
    assert (
        manifest.index_sha256 == hashlib.sha256((root / "index.parquet").read_bytes()).hexdigest()
    )
    assert (manifest.rows, manifest.ok, manifest.failed) == (24, 23, 1)
    assert manifest.failed_by_code == {"image_undecodable": 1}
    assert manifest.failed_shards == {}
    assert manifest.dimension == 32
    assert manifest.logit_scale == pytest.approx(1 / 0.07)
    assert [row["name"] for row in index] == ["00000.tar", "00001.tar", "00002.tar"]
    for row in index:
        data = (root / "shards" / f"{row['name']}.parquet").read_bytes()
        source = (Path(scored.dataset) / row["name"]).read_bytes()
        rows, footer = shard_file.decode(data, row["name"])
        assert row["file_sha256"] == hashlib.sha256(data).hexdigest()
        assert row["source_sha256"] == hashlib.sha256(source).hexdigest() == footer.source_sha256
        assert row["bytes"] == len(data)
        assert row["source_size"] == len(source)
        assert footer.fingerprint_sha256 == manifest.fingerprint_sha256
        assert rows.image.dtype == np.float16
    assert Plan.read(f"{root}/plan.json").fingerprint == manifest.fingerprint
    progress = read_progress(scored)
    assert progress.phase == "completed"
    assert (progress.shards_total, progress.shards_committed, progress.shards_failed) == (3, 3, 0)
    assert (progress.pairs_done, progress.pairs_failed, progress.fault) == (24, 1, None)


def test_a_run_with_nothing_to_do_writes_nothing_but_progress(scored: ScoreSpec) -> None:
    before, manifest = shard_files(scored), Path(scored.output, "manifest.json")
    inode = manifest.stat().st_ino
    told: list[Progress] = []
    summary = score(scored, job="job_1", on_progress=told.append)
    assert shard_files(scored) == before
    assert manifest.stat().st_ino == inode
    assert (summary.rows, summary.ok, summary.pairs_per_second) == (24, 23, 0.0)
    assert (summary.encoded_shards, summary.shards) == (0, 3)
    assert summary.failed_by_code == {"image_undecodable": 1}
    assert read_progress(scored).job == "job_1"
    assert [progress.phase for progress in told][-2:] == ["finalizing", "completed"]
    assert {field.name for field in dataclasses.fields(ScoreSummary)} == set(
        json.loads(json.dumps(dataclasses.asdict(summary)))
    )


def test_only_what_is_missing_is_done_again(
    copied: ScoreSpec, scored: ScoreSpec, ray_address: str
) -> None:
    """A lost shard, a damaged one whose size tells it, and a manifest that is lost with them."""
    shards = Path(copied.output) / "shards"
    (shards / "00000.tar.parquet").unlink()
    (shards / "00002.tar.parquet").write_bytes(b"no parquet")
    (Path(copied.output) / "manifest.json").unlink()
    before = shard_files(copied)
    score(copied)
    after = shard_files(copied)
    assert [name for name in after if after[name] == before.get(name)] == ["00001.tar.parquet"]
    assert contents(copied) == contents(scored) | {
        "index.parquet": contents(copied)["index.parquet"]  # it has the copies' times
    }
    assert Path(copied.output, "manifest.json").exists()


def test_a_source_of_another_size_is_done_again(
    copied: ScoreSpec, write_tar: Callable, pictures: list, crew_here: None
) -> None:
    write_tar(Path(copied.dataset) / "00001.tar", pictures[:3])
    before = shard_files(copied)
    summary = score(copied)
    assert [n for n, seen in shard_files(copied).items() if seen != before[n]] == [
        "00001.tar.parquet"
    ]
    assert (summary.rows, summary.failed) == (19, 0)


def test_a_source_with_another_time_is_looked_at(
    copied: ScoreSpec, write_tar: Callable, pictures: list, crew_here: None
) -> None:
    before = shard_files(copied)
    touched, changed = (Path(copied.dataset) / f"0000{shard}.tar" for shard in (0, 2))
    touched.touch()
    data = changed.read_bytes()
    caption = next(v for k, v in pictures[16].items() if k.endswith(".txt"))
    assert data.count(caption) > 0
    changed.write_bytes(data.replace(caption, caption[::-1]))
    score(copied)
    assert [n for n, seen in shard_files(copied).items() if seen != before[n]] == [
        "00002.tar.parquet"
    ]
    assert verify(copied.output, deep=True).findings == []
    after = shard_files(copied)
    Path(copied.output, "manifest.json").unlink()
    changed.write_bytes(data)  # newer than what an interrupted run made of it
    score(copied)
    assert [n for n, seen in shard_files(copied).items() if seen != after[n]] == [
        "00002.tar.parquet"
    ]


def test_failed_rows_are_tried_again_when_asked(
    copied: ScoreSpec, scored: ScoreSpec, crew_here: None
) -> None:
    before = shard_files(copied)
    score(copied.model_copy(update={"retry_failed": True}))
    assert [n for n, seen in shard_files(copied).items() if seen != before[n]] == [
        "00001.tar.parquet"  # it has the damaged picture
    ]


def test_what_killed_runs_left_is_cleared_away(copied: ScoreSpec, crew_here: None) -> None:
    litter = Path(copied.output, "shards", ".00001.tar.parquet.abcd_123.tmp")
    litter.touch()
    score(copied)
    assert not litter.exists()
    assert not Path(copied.output, "lease.json").exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dtype": "float32"}, 'dtype (cache: "float16", now: "float32")'),
        ({"precision": "bf16"}, 'precision (cache: "fp32", now: "bf16")'),
        ({"seed": 1}, "weights_sha256"),
    ],
)
def test_another_fingerprint_is_refused(
    copied: ScoreSpec, change: dict, field: str, make_reference: Callable, crew_here: None
) -> None:
    if "dtype" in change:
        spec = copied.model_copy(update=change)
    else:
        model = f"local-dir:{make_reference(1)}" if "seed" in change else copied.reference.model
        precision = change.get("precision", "fp32")
        reference = ReferenceSpec(model=model, precision=precision)
        spec = copied.model_copy(update={"reference": reference})
    before = contents(copied)
    with pytest.raises(FingerprintMismatch) as caught:
        score(spec)
    assert field in str(caught.value)
    assert contents(copied) == before
    assert Path(copied.output, "manifest.json").exists()
    fault = read_progress(spec).fault
    assert fault is not None
    assert (fault.code, fault.detail) == ("fingerprint-mismatch", str(caught.value))


def test_a_truncated_shard_is_recorded_until_it_is_mended(spec: ScoreSpec, crew_here: None) -> None:
    tar = Path(spec.dataset) / "00001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    summary = score(spec)
    failure = Path(spec.output) / "failures" / "00001.tar.json"
    assert (summary.rows, summary.shards, summary.failed_shards) == (16, 2, 1)
    assert summary.failures["00001.tar"].startswith("tar_truncated: ")
    assert Manifest.read(f"{spec.output}/manifest.json").failed_shards == {
        "00001.tar": "tar_truncated"
    }
    assert ShardFailure.read(str(failure)).code == "tar_truncated"
    before = shard_files(spec)

    tar.write_bytes(whole)
    summary = score(spec)
    assert (summary.rows, summary.encoded_shards, summary.failed_shards) == (24, 1, 0)
    assert not failure.exists()
    assert before.items() <= shard_files(spec).items()


def test_the_error_budget(spec: ScoreSpec, crew_here: None) -> None:
    (Path(spec.dataset) / "00001.tar").write_bytes(b"")
    strict = spec.model_copy(update={"error_budget": 0.2})
    with pytest.raises(ErrorBudgetExceeded, match=r"1 of 3 shards.*--error-budget") as caught:
        score(strict)
    assert caught.value.exit_code == 3
    assert not Path(spec.output, "manifest.json").exists()
    before = shard_files(spec)
    assert score(spec.model_copy(update={"error_budget": 0.4})).shards == 2
    assert shard_files(spec) == before


def test_a_job_that_does_not_say_allows_few_pairs_and_no_shard(
    copied: ScoreSpec, write_tar: Callable, pictures: list, crew_here: None
) -> None:
    usual = copied.model_copy(update={"error_budget": None})  # one of its 24 pairs is broken
    assert score(usual).failed == 1
    broken = Path(copied.dataset) / "00003.tar"
    broken.write_bytes(b"")
    with pytest.raises(ErrorBudgetExceeded, match=r"1 of 4 shards.* budget of 0:"):
        score(usual)
    broken.unlink()
    write_tar(Path(copied.dataset) / "00000.tar", [{"a.txt": b"no picture"}, *pictures[:7]])
    with pytest.raises(ErrorBudgetExceeded, match=r"2 of 24 pairs.* 0\.05.*--error-budget 0\.09"):
        score(usual)


def test_no_usable_row_is_a_job_error(
    spec: ScoreSpec, write_tar: Callable, crew_here: None
) -> None:
    for shard in Path(spec.dataset).glob("*.tar"):
        write_tar(shard, [{"a.txt": b"no picture"}])
    with pytest.raises(JobError, match=r"image_missing.*a\.txt.*txt 1.*KEY\.jpg"):
        score(spec)
    assert not Path(spec.output, "manifest.json").exists()


def test_encoders_side_by_side_write_the_same(
    spec: ScoreSpec, tmp_path: Path, ray_address: str
) -> None:
    score(spec.model_copy(update={"workers": 1}))
    both = spec.model_copy(update={"workers": 2, "output": str(tmp_path / "both")})
    score(both)
    for name, data in contents(both).items():
        if name.startswith("shards"):
            one, _ = shard_file.decode(contents(spec)[name], name)
            two, _ = shard_file.decode(data, name)
            # They have other numbers of threads, which may round otherwise.
            np.testing.assert_allclose(two.image, one.image, atol=1e-6, rtol=0)
            np.testing.assert_allclose(two.text, one.text, atol=1e-6, rtol=0)


def test_wrong_places_are_one_clear_error(spec: ScoreSpec, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset at /no/such"):
        score(spec.model_copy(update={"dataset": "/no/such"}))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StorageError, match="Not a directory"):
        score(spec.model_copy(update={"output": f"{file}/cache"}))
    with pytest.raises(InvalidInput, match="pipe"):
        score(spec.model_copy(update={"dataset": "pipe:ls"}))


@pytest.mark.parametrize("name", ["0.tar", "0.parquet", "pairs.csv"])
def test_what_can_not_be_scored_is_told_before_anything_is_loaded(
    spec: ScoreSpec, tmp_path: Path, name: str
) -> None:
    """There is no Ray here, and no such model."""
    pairs = tmp_path / "other" / name
    pairs.parent.mkdir()
    pairs.write_bytes(gzip.compress(b"a tar"))
    reference = ReferenceSpec(model="local-dir:/no/such/model")
    for dataset in (pairs.parent, pairs):
        with pytest.raises(DatasetError, match=re.escape(name)):
            score(spec.model_copy(update={"dataset": str(dataset), "reference": reference}))


def test_hidden_names_and_a_link_to_nothing(copied: ScoreSpec, crew_here: None) -> None:
    dataset = Path(copied.dataset)
    for name in ("._00000.tar", ".Trash-1000/00000.tar", "00000.parquet"):
        (dataset / name).parent.mkdir(exist_ok=True)
        (dataset / name).write_bytes(b"no tar")
    (dataset / "up").symlink_to(".")
    (dataset / "gone.tar").symlink_to("/nowhere/00003.tar")
    summary = score(copied)
    assert (summary.shards, summary.encoded_shards, summary.failed_shards) == (3, 0, 1)
    assert summary.failures["gone.tar"].startswith("io_error: No such file")


def test_an_unknown_model_is_named_before_anything_is_started(spec: ScoreSpec) -> None:
    reference = ReferenceSpec(model="ViT-B-31", pretrained="openai")
    with pytest.raises(InvalidInput, match="did you mean"):
        score(spec.model_copy(update={"reference": reference}))
    assert not Path(spec.output).exists()


def test_a_job_names_only_what_lies_under_its_roots(spec: ScoreSpec, tmp_path: Path) -> None:
    outside = spec.model_copy(update={"output": str(tmp_path.parent / "elsewhere")})
    with pytest.raises(UriNotAllowed):
        score(outside, roots=[str(tmp_path)])
    assert not Path(outside.output).exists()
    with pytest.raises(UriNotAllowed, match="reference"):
        score(spec, roots=[str(tmp_path)])


def test_a_dead_encoder_is_replaced(
    copied: ScoreSpec, scored: ScoreSpec, ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rhocache_workers.run.progress import ProgressLog

    spec = copied.model_copy(update={"output": copied.output + "-again", "workers": 1})
    killed: list[int] = []

    def kill_once(self: ProgressLog, event: object, add: Callable = ProgressLog.add) -> None:
        add(self, event)
        if isinstance(event, ShardInProgress) and not killed:
            for encoder in actors(
                psutil.Process()
            ):  # of this run, and maybe what is left of the last
                encoder.kill()
                killed.append(encoder.pid)

    monkeypatch.setattr(ProgressLog, "add", kill_once)
    summary = score(spec)
    assert killed
    assert (summary.rows, summary.failed_shards) == (24, 0)
    for name, data in contents(scored).items():
        if name.startswith("shards"):
            assert contents(spec)[name] == data


DRIVER = """
import json, sys
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.run.driver import score
score(ScoreSpec.model_validate_json(sys.argv[1]), ray_address=sys.argv[2] or None)
"""

# Goes no further than the first shard.
HELD = """
import threading
from rhocache_workers.messages import CommittedShard
from rhocache_workers.run.progress import ProgressLog

def held(self, event, add=ProgressLog.add):
    add(self, event)
    if isinstance(event, CommittedShard):
        threading.Event().wait()

ProgressLog.add = held
"""

# Takes its time over each event, and renews its lease in less.
SLOW = """
import functools, time
from rhocache_workers.run import driver
from rhocache_workers.run.progress import ProgressLog

driver.Lease = functools.partial(driver.Lease, renew_seconds=0.05)

def slowly(self, event, add=ProgressLog.add):
    time.sleep(0.3)
    add(self, event)

ProgressLog.add = slowly
"""


@pytest.fixture
def larger(tmp_path: Path, spec: ScoreSpec, pictures: list, write_tar: Callable) -> ScoreSpec:
    """Work for some seconds: 10 shards."""
    for shard in range(10):
        write_tar(tmp_path / "larger" / f"{shard:05}.tar", pictures)
    return spec.model_copy(update={"dataset": str(tmp_path / "larger"), "batch_size": 1})


def start_driver(spec: ScoreSpec, address: str, code: str = DRIVER) -> subprocess.Popen:
    """Run it in a process of its own until it has written a shard."""
    driver = subprocess.Popen(
        [sys.executable, "-c", code, spec.model_dump_json(), address], stderr=subprocess.PIPE
    )
    while not shard_files(spec):
        assert driver.poll() is None
        time.sleep(0.01)
    return driver


def test_a_killed_run_goes_on_and_ends_the_same(
    larger: ScoreSpec, ray_address: str, scored_here: Callable[[ScoreSpec], ScoreSpec]
) -> None:
    driver = start_driver(larger, ray_address, HELD + DRIVER)
    driver.kill()
    driver.communicate()
    assert not Path(larger.output, "manifest.json").exists()
    before = shard_files(larger)
    assert 0 < len(before) < 10

    summary = score(larger)
    assert summary.rows == 10 * 24
    assert before.items() <= shard_files(larger).items()
    assert contents(larger) == contents(scored_here(larger))


def test_two_drivers_on_one_cache(
    larger: ScoreSpec,
    ray_address: str,
    scored_here: Callable[[ScoreSpec], ScoreSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second says that another is at work; one that slept too long ends without a trace."""
    expected = contents(scored_here(larger))
    first = start_driver(larger, "", SLOW + DRIVER)  # on a Ray of its own: it keeps its cores
    with pytest.raises(CacheBusy, match=f"process {first.pid} on .*end it and run this again"):
        score(larger)
    assert read_progress(larger).phase == "encoding"

    first.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(driver, "Lease", functools.partial(Lease, stale_seconds=0.5))
    assert score(larger).rows == 10 * 24
    assert contents(larger) == expected
    manifest = Path(larger.output, "manifest.json").read_bytes()
    first.send_signal(signal.SIGCONT)
    _, told = first.communicate()
    assert b"CacheBusy" in told, told.decode()
    assert contents(larger) == expected
    assert Path(larger.output, "manifest.json").read_bytes() == manifest
    assert read_progress(larger).phase == "completed"


def test_sigterm_cancels_and_keeps_what_is_committed(larger: ScoreSpec, ray_address: str) -> None:
    driver = start_driver(larger, ray_address, HELD + DRIVER)
    driver.send_signal(signal.SIGTERM)
    assert b"KeyboardInterrupt" in driver.communicate()[1]
    assert not Path(larger.output, "manifest.json").exists()
    progress = read_progress(larger)
    assert progress.phase == "cancelled"
    assert progress.shards_committed < 10
    assert len(shard_files(larger)) > 0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1"])
def test_a_cluster_that_does_not_answer_is_named(spec: ScoreSpec, address: str) -> None:
    driver = [sys.executable, "-c", DRIVER, spec.model_dump_json(), address]
    done = subprocess.run(driver, capture_output=True, text=True, check=False)
    assert f"JobError: cannot join Ray at {address}: [Errno 111]" in done.stderr


def test_relative_paths_mean_those_of_the_caller(
    copied: ScoreSpec, ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(copied.dataset).parent)
    folder = copied.reference.local_dir
    assert folder is not None
    relative = copied.model_copy(
        update={
            "dataset": "dataset",
            "output": "relative",
            "reference": ReferenceSpec(model=f"local-dir:{os.path.relpath(folder)}"),
        }
    )
    assert score(relative).cache == str(Path("relative").absolute())
    written = Manifest.read("relative/manifest.json").reference.local_dir
    assert written is not None
    assert Path(written).is_absolute()
    assert Path(written).samefile(folder)
