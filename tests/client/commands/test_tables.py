from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table

from rhocache.commands import tables
from rhocache_schemas.api import PairError, PairErrorList
from rhocache_schemas.failures import Failed
from rhocache_trainer import EvaluationResult
from rhocache_workers.maintain.verify import Finding, VerifyReport
from rhocache_workers.plan.devices import Device
from rhocache_workers.plan.estimate import Cost, Storage, Work
from rhocache_workers.run.driver import ScoreSummary


def lines(table: Table) -> list[str]:
    console = Console(width=120)
    with console.capture() as shown:
        console.print(table)
    return [line.rstrip() for line in shown.get().splitlines()]


def test_a_cost_is_told_in_units_that_fit() -> None:
    found = Cost(
        dataset="d",
        model="m",
        precision="bf16",
        shards=12_800,
        bytes=10**12,
        pairs=128_000_000,
        pairs_estimated=True,
        work=Work(8_817_622_304, 1_440_000_000, 5_959_540_736, 18.83, 77, 3, 1.5),
        device=Device("h100", 989e12, 0.35),
        predicted_hours=2.0,
        measured_hours=None,
        measured_over_predicted=None,
        storage={"float16": Storage(2100.4, 268_851_200_000)},
    )
    assert lines(tables.cost(found)) == [
        "dataset           12,800 shards, 1.0 TB",
        "pairs             128,000,000, estimated",
        "image tower       8.82 GFLOP",
        "text tower        1.44 GFLOP at 18.8 positions (5.96 GFLOP at all 77)",
        "a pair            28.6 GFLOP of 3 views and 1.5 captions",
        "device            h100, 989 TFLOP/s in bf16, of which 35% is expected",
        "time              2 hours (17,778 pairs/s), predicted",
        "cache in float16  268.9 GB, 2,100 bytes a pair",
    ]


@pytest.mark.parametrize(
    ("hours", "told"),
    [(0.002, "7 s ("), (0.25, "15 min ("), (23.9, "23.9 hours ("), (480, "20 days (")],
)
def test_a_cost_is_told_in_a_unit_that_fits(hours: float, told: str) -> None:
    work, device = Work(1, 1, 1, 1.0, 1, 1, 1.0), Device("cpu", 1e9, 0.5)
    found = Cost(
        "d", "m", "fp32", 1, 1, 1000, pairs_estimated=False, work=work, device=device,
        predicted_hours=hours, measured_hours=None, measured_over_predicted=None, storage={},
    )  # fmt: skip
    assert told in next(line for line in lines(tables.cost(found)) if line.startswith("time"))


def test_what_a_run_did() -> None:
    done = ScoreSummary(
        cache="/caches/c",
        rows=10_240,
        ok=10_237,
        failed=3,
        failed_by_code={"image_undecodable": 2, "text_missing": 1},
        shards=20,
        gone_shards=0,
        encoded_shards=12,
        reused_pairs=1_400,
        failed_shards=1,
        failures={"00003.tar": "tar_truncated: ends in the middle of a member"},
        seconds=75.2,
        encoder_seconds=140.0,
        pairs_per_second=123.4,
        limited_by="image tower, 97% busy",
        fingerprint="ab" * 32,
    )
    assert lines(tables.scored(done)) == [
        "cache          /caches/c",
        "pairs          10,240",
        "failed pairs   3, 0.03%",
        "shards         20, 12 of them encoded by this run",
        "reused         1,400 pairs, whose rows other caches had",
        "failed shards  1, not in the cache; the next run tries them again",
        "time           1:15, encoding at 123 pairs/s",
        "limited by     image tower, 97% busy",
        "fingerprint    " + "ab" * 32,
    ]
    complete = replace(
        done,
        failed=0,
        failed_by_code={},
        failures={},
        failed_shards=0,
        gone_shards=0,
        encoded_shards=0,
        reused_pairs=0,
        seconds=6.5,
    )
    shown = "\n".join(lines(tables.scored(complete)))
    assert "20, 0 of them encoded by this run" in shown
    assert "failed" not in shown
    assert "limited" not in shown


def test_failures_are_told_by_code_with_three_samples() -> None:
    pair = [PairError(shard="0.tar", key=f"{n}", row=n, code="text_missing") for n in range(5)]
    shard = PairError(shard="3.tar", code="tar_truncated", detail="ends in the middle of a member")
    found = {"tar_truncated": Failed(1, [shard]), "text_missing": Failed(1200, pair)}
    assert lines(tables.failed(found)) == [
        "code           failed  as in",
        "text_missing    1,200  no KEY.txt, field of KEY.json or table's caption, or nothing or "
        "too much in it",
        "                       0.tar: 0",
        "                       0.tar: 1",
        "                       0.tar: 2",
        "tar_truncated       1  it ends, or turns to garbage, before its end-of-archive marker",
        "                       3.tar: ends in the middle of a member",
    ]


def test_an_evaluation() -> None:
    recalls = {1: 0.125, 5: 0.5, 10: 1.0}
    found = EvaluationResult(
        model="local-dir:m",
        dataset="d",
        shards=["0.tar"],
        images=512,
        captions=400,
        skipped=0,
        image_to_text=recalls,
        text_to_image=recalls,
        zero_shot=None,
    )
    assert lines(tables.evaluation(found)) == [
        "model          local-dir:m",
        "images         512",
        "captions       400 different ones",
        "skipped        0",
        "image to text  R@1 12.5 %  R@5 50.0 %  R@10 100.0 %",
        "text to image  R@1 12.5 %  R@5 50.0 %  R@10 100.0 %",
    ]
    accuracy = {"images": 500, "classes": ["a", "b"], "accuracy": 0.5, "mean_class_accuracy": 0.25}
    fuller = EvaluationResult.model_validate(
        found.model_dump()
        | {
            "cache": "/caches/c",
            "zero_shot": accuracy,
            "templates": "name",
            "linear_probe": accuracy | {"train_images": 2000, "strength": 1e-5},
        }
    )
    shown = "\n".join(lines(tables.evaluation(fuller)))
    assert "cache          /caches/c" in shown
    assert "zero-shot      50.0 % of 500 images, 2 classes (25.0 % mean over classes)" in shown
    assert "prompts: name" in " ".join(shown.split())
    assert "trained on 2000 images with L2 1e-05" in " ".join(shown.split())


def test_what_a_dataset_says_is_text_alone() -> None:
    """Neither rich's markup nor a terminal's controls, and no line of its own."""
    said = "[red]\x1b[2J\x1b]8;;http://e\x07x\n\u202ey[/red]"
    done = ScoreSummary(
        cache=said,
        rows=1,
        ok=1,
        failed=0,
        failed_by_code={},
        shards=1,
        encoded_shards=1,
        reused_pairs=0,
        failed_shards=1,
        gone_shards=0,
        failures={said: said},
        seconds=1.0,
        encoder_seconds=1.0,
        pairs_per_second=1.0,
        limited_by="image tower",
        fingerprint="ab",
        warning=said,
    )
    text = "\n".join(lines(tables.scored(done)))
    assert "warning" in text
    failed = {said: Failed(1, [PairError(shard=said, key="", code=said, detail=said)])}
    text += "\n".join(lines(tables.failed(failed)))
    page = PairErrorList(
        data=[PairError(shard=said, row=0, key=said, code="text_missing", detail=said)],
        has_more=False,
    )
    text += "\n".join(lines(tables.pair_errors(page)))
    report = VerifyReport(cache=said)
    report.findings.append(Finding(said, said))
    report.notes.append(said)
    console = Console(width=120)
    with console.capture() as captured:
        tables.print_report(console, report)
    text += captured.get()
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert text.count("[red]") == text.count("[/red]") >= 9
