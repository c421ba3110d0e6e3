"""What the documents of a cache say that their fields' types alone do not."""

import hashlib
import json
import time
from typing import Any

import pytest
from caches import FINGERPRINT
from pydantic import ValidationError

from rhocache_schemas.cache.documents import (
    Fault,
    LeaseHolder,
    Manifest,
    Plan,
    Progress,
    ShardFailure,
    ShardOutcome,
)
from rhocache_schemas.errors import ShardError, ShardErrorCode
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec

MANIFEST: dict[str, Any] = {
    "fingerprint": FINGERPRINT,
    "fingerprint_sha256": "f",
    "reference": ReferenceSpec(model="local-dir:/gone"),
    "dataset": "the dataset",
    "rows": 3,
    "ok": 2,
    "failed": 1,
    "failed_by_code": {"image_missing": 1},
    "shards": 1,
    "failed_shards": {},
    "dimension": 8,
    "logit_scale": 10.0,
    "index_sha256": "1",
    "batch_size": 8,
    "software": {},
    "created_at": 0.0,
}


def test_a_plan_is_of_now_and_of_a_set_of_shards() -> None:
    spec = ScoreSpec(dataset="d", output="o", reference=ReferenceSpec(model="local-dir:/gone"))
    before = time.time()
    plan = Plan.begin(spec, FINGERPRINT, iter(["b.tar", "a.tar", "c/0.tar"]), {"cpu": 8})
    assert before <= plan.created_at <= time.time()
    assert plan.shards_sha256 == hashlib.sha256(b"a.tar\nb.tar\nc/0.tar").hexdigest()
    assert (plan.spec, plan.fingerprint, plan.batch_sizes) == (spec, FINGERPRINT, {"cpu": 8})
    assert Plan.parse(plan.to_json(), "here") == plan


def test_a_failure_says_what_its_error_said_but_for_secrets() -> None:
    error = ShardError(ShardErrorCode.IO_ERROR, "0.tar", "no s3://KEY:secret@bucket/0.tar")
    before = time.time()
    failure = ShardFailure.of(error)
    assert before <= failure.failed_at <= time.time()
    assert (failure.shard, failure.code) == ("0.tar", "io_error")
    assert failure.detail == "no s3://***@bucket/0.tar"


def test_progress_of_a_newer_driver_is_read_for_what_is_known_of_it() -> None:
    newer = {"phase": "encoding", "updated_at": 1.0, "novel": 1, "run": {"pairs_ok": 3, "new": 2},
             "recent": [{"shard": "0.tar", "novel": []}], "steps": [
                 {"name": "encoding", "started_at": 1.0, "novel": None}]}  # fmt: skip
    progress = Progress.parse(json.dumps(newer).encode(), "progress.json")
    assert progress.run.pairs_ok == 3
    assert [outcome.shard for outcome in progress.recent] == ["0.tar"]


def test_what_is_left_out_is_nothing_yet() -> None:
    progress = Progress(phase="planning", updated_at=1.0)
    assert progress.model_dump(exclude={"format_version", "phase", "updated_at"}) == {
        "job": None,
        "steps": [],
        "shards_total": 0,
        "shards_committed": 0,
        "shards_failed": 0,
        "pairs_done": 0,
        "pairs_failed": 0,
        "failed_by_code": {},
        "pairs_per_second": 0.0,
        "seconds_left": None,
        "limited_by": None,
        "started_at": 0.0,
        "run": {
            "pairs_ok": 0,
            "pairs_failed": {},
            "pairs_reused": 0,
            "pairs_lost": 0,
            "shards_committed": 0,
            "shards_failed": {},
            "encoder_seconds": 0.0,
            "stage_seconds": {},
        },
        "shards_ended": 0,
        "shards_in_progress": [],
        "recent": [],
        "fault": None,
    }
    outcome = ShardOutcome(shard="0.tar")
    assert (outcome.rows, outcome.failed, outcome.code) == (0, 0, None)
    holder = LeaseHolder(run="r", host="h", pid=1)
    assert (holder.job, holder.renewals) == (None, 0)
    manifest = Manifest(**MANIFEST)
    assert (manifest.reference_sha256, manifest.logit_bias) == (None, None)


@pytest.mark.parametrize("field", ["rows", "ok", "failed", "shards"])
def test_counts_begin_at_0(field: str) -> None:
    assert getattr(Manifest(**MANIFEST | {field: 0}), field) == 0
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Manifest(**MANIFEST | {field: -1})


@pytest.mark.parametrize("field", ["dimension", "batch_size"])
def test_sizes_begin_at_1(field: str) -> None:
    assert getattr(Manifest(**MANIFEST | {field: 1}), field) == 1
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Manifest(**MANIFEST | {field: 0})


def test_batch_sizes_of_a_plan_begin_at_1() -> None:
    spec = ScoreSpec(dataset="d", output="o", reference=ReferenceSpec(model="local-dir:/gone"))
    assert Plan.begin(spec, FINGERPRINT, [], {"cpu": 1}).batch_sizes == {"cpu": 1}
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Plan.begin(spec, FINGERPRINT, [], {"cpu": 0})


def test_a_fault_is_redacted() -> None:
    assert Fault(code="c", detail="http://token@host").detail == "http://***@host"
