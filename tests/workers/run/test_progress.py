import time
from collections import Counter
from pathlib import Path

import pytest

from rhocache_schemas.cache.documents import Fault, Progress
from rhocache_schemas.cache.index import IndexRow
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import ShardError, ShardErrorCode
from rhocache_workers.messages import CommittedShard, ShardInProgress
from rhocache_workers.run.progress import ProgressLog

SHARDS = [Shard(name, f"/{name}", 1000, 0) for name in "abcd"]


def done(name: str, rows: int, failed: int = 0) -> CommittedShard:
    row = IndexRow(name, rows, rows - failed, failed, 1, 1000, 0, "", "", "")
    return CommittedShard(row, Counter(image_undecodable=failed))


def test_it_counts_what_is_in_progress_and_estimates_what_is_left(tmp_path: Path) -> None:
    told: list[Progress] = []
    log = ProgressLog(str(tmp_path), "job_1", told.append)
    log.plan(SHARDS)
    began = time.monotonic()
    log.begin([done("a", 10)], lambda: None)
    assert told[-1].pairs_per_second == 0
    assert told[-1].seconds_left is None
    log.add(ShardInProgress("b", 4))
    log.add(ShardError(ShardErrorCode.IO_ERROR, "c", "gone"))
    time.sleep(0.1)
    log.add(ShardInProgress("b", 6))
    log.enter("encoding")
    passed = time.monotonic() - began

    progress = Progress.read(str(tmp_path / "progress.json"))
    assert progress == told[-1]
    assert (progress.shards_total, progress.shards_committed, progress.shards_failed) == (4, 1, 1)
    assert (progress.shards_ended, progress.shards_in_progress) == (1, ["b"])
    assert progress.pairs_done == 16
    assert 6 / passed < progress.pairs_per_second < 6 / 0.1
    assert progress.seconds_left is not None
    left = 2 * 10 - 6  # b and d have as many bytes as a, which has 10 pairs
    assert progress.seconds_left == pytest.approx(left / progress.pairs_per_second)

    log.add(ShardInProgress("b", 0))
    assert told[-1].run.pairs_lost == 0
    log.add(done("b", 12, failed=2))
    log.add(done("d", 1))
    log.enter("completed")
    assert (told[-1].pairs_done, told[-1].pairs_failed, told[-1].shards_committed) == (23, 2, 3)
    assert told[-1].failed_by_code == {"image_undecodable": 2}
    assert (told[-1].shards_ended, told[-1].shards_in_progress) == (3, [])
    assert told[-1].run.pairs_lost == 6, "b was begun again"


def test_the_file_is_written_once_a_second_at_most(tmp_path: Path) -> None:
    told: list[Progress] = []
    log = ProgressLog(str(tmp_path), None, told.append)
    log.plan(SHARDS)
    log.begin([], lambda: None)
    for pairs in range(1000):
        log.add(ShardInProgress("a", pairs))
    assert len(told) == 1, "that encoding begins"


def test_steps_follow_one_another(tmp_path: Path) -> None:
    told: list[Progress] = []
    log = ProgressLog(str(tmp_path), None, told.append)
    log.plan(SHARDS)
    log.step("starting Ray")
    assert not (tmp_path / "progress.json").exists(), "the cache may still refuse the run"
    log.enter("planning")
    log.step("loading the reference")
    log.enter("completed")
    first, second = Progress.read(f"{tmp_path}/progress.json").steps
    assert (first.name, second.name) == ("starting Ray", "loading the reference")
    assert first.started_at <= first.ended_at == second.started_at <= second.ended_at
    assert [each.steps[-1].ended_at for each in told[:-1]] == [None] * 3


def test_a_fault_that_can_not_be_written_hides_no_other_error(tmp_path: Path) -> None:
    log = ProgressLog(str(tmp_path), "job_1", None)
    log.plan(SHARDS)
    assert not (tmp_path / "progress.json").exists(), "the cache may still refuse the run"
    log.enter("planning")
    (tmp_path / "progress.json").unlink()
    (tmp_path / "progress.json").mkdir()
    log.enter("failed", Fault(code="storage", detail="disk full"))
