import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rhocache_schemas.errors import (
    DatasetError,
    InvalidInput,
    RhocacheError,
    ShardError,
)
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.plan import estimate as module
from rhocache_workers.plan.estimate import estimate
from rhocache_workers.run.driver import score


def test_hours_are_operations_over_speed(dataset: Path) -> None:
    found = estimate(str(dataset), "ViT-B-32", device="h100", precision="bf16", pairs=10**9)
    work = found.work
    assert (found.pairs, found.pairs_estimated) == (10**9, False)
    assert work.image_flops == pytest.approx(8.3e9, rel=0.01)
    assert 8 <= work.text_length < work.context_length == 77
    assert work.text_flops < work.full_text_flops / 2
    speed = 989e12 * found.device.utilisation
    seconds = 10**9 * (work.image_flops + work.text_flops) / speed
    assert found.predicted_hours == pytest.approx(seconds / 3600)
    assert found.measured_hours is None
    assert found.measured_over_predicted is None


def test_pairs_are_estimated_by_the_first_shard(dataset: Path) -> None:
    sizes = [path.stat().st_size for path in sorted(dataset.glob("*.tar"))]
    found = estimate(str(dataset), "ViT-B-32", device="l4")
    assert (found.shards, found.bytes) == (3, sum(sizes))
    assert (found.pairs, found.pairs_estimated) == (round(8 * sum(sizes) / sizes[0]), True)
    one = estimate(str(dataset), "ViT-B-32", device="l4", shards="00001.tar")
    assert (one.shards, one.pairs) == (1, 8)


def test_storage_is_that_of_a_real_cache(scored: ScoreSpec) -> None:
    found = estimate(scored.dataset, scored.reference.model, device="l4", pairs=24)
    files = Path(scored.output, "shards").glob("*.parquet")
    stored = sum(file.stat().st_size for file in files)
    assert found.storage["float16"].bytes == pytest.approx(stored, rel=0.02)
    more = found.storage["float32"].bytes_per_pair - found.storage["float16"].bytes_per_pair
    assert more == pytest.approx(2 * 32 * 2, rel=0.03)  # two vectors of 32, 2 bytes a number


def test_views_and_captions_are_counted(
    job_of: Callable[..., ScoreSpec], pictures: list, with_texts: Callable[..., dict[str, bytes]]
) -> None:
    texts = ["a bird", "a cat", "a house"]
    pairs = [with_texts(each, texts[: 1 + n % 3]) for n, each in enumerate(pictures[:12])]
    asked = {"captions": 2, "caption_field": "texts"}
    spec = job_of("views", pairs, views={"count": 3}, **asked)
    score(spec, here=True)
    plain = estimate(spec.dataset, spec.reference.model, device="l4", pairs=12, **asked)
    found = estimate(spec.dataset, spec.reference.model, device="l4", pairs=12, views=3, **asked)
    work = found.work
    assert (work.views, plain.work.views) == (3, 1)
    assert work.captions == pytest.approx((1 + 2 + 2) / 3, abs=0.2)  # of the first shard's four
    assert work.flops == work.image_flops * 3 + work.captions * work.text_flops
    assert work.flops > plain.work.flops
    stored = sum(file.stat().st_size for file in Path(spec.output, "shards").glob("*.parquet"))
    assert found.storage["float16"].bytes == pytest.approx(stored, rel=0.15)  # files of 4 rows


def test_a_measurement_stands_beside_the_prediction(
    dataset: Path, reference_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.05)
    found = estimate(str(dataset), f"local-dir:{reference_folder}", measure=True)
    assert found.measured_hours is not None
    assert found.measured_hours > 0
    ratio = found.measured_hours / found.predicted_hours
    assert found.measured_over_predicted == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dataset": "no/such"}, DatasetError, "no dataset at no/such"),
        ({"shards": "9*"}, DatasetError, "matches '9\\*'"),
        ({"model": "VitB32"}, InvalidInput, "did you mean"),
        ({"model": ""}, InvalidInput, "no model ''"),
        ({"pretrained": "laion3b"}, InvalidInput, "pretrained tags"),
        ({"model": "local-dir:m", "pretrained": "openai"}, InvalidInput, "leave pretrained out"),
        ({"pairs": 0}, InvalidInput, "0 pairs"),
        ({"device": "tpu"}, InvalidInput, "'tpu'"),
        ({"precision": "fp8"}, InvalidInput, "'fp8'"),
        ({"measure": True}, InvalidInput, "needs pretrained"),
        ({"measure": True, "device": "tpu"}, InvalidInput, "can be measured, not tpu"),
    ],
)
def test_bad_input_is_one_clear_error(
    dataset: Path, options: dict[str, Any], error: type[RhocacheError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        estimate(**{"dataset": str(dataset), "model": "ViT-B-32"} | options)
    assert "\n" not in str(caught.value)


def test_a_first_shard_that_tells_nothing(tmp_path: Path, write_tar: Callable) -> None:
    shard = write_tar(tmp_path / "0.tar", [{"a.jpg": b"no caption"}])
    with pytest.raises(DatasetError, match=r"no usable pair .*a\.jpg.*jpg 1.*KEY\.txt"):
        estimate(str(tmp_path), "ViT-B-32", device="l4")
    shard.write_bytes(b"")
    with pytest.raises(ShardError, match="tar"):
        estimate(str(tmp_path), "ViT-B-32", device="l4")


def test_pictures_that_can_not_be_timed(
    tmp_path: Path, write_tar: Callable, reference_folder: Path
) -> None:
    write_tar(tmp_path / "0.tar", [{"a.jpg": b"no picture", "a.txt": b"a cat"}])
    with pytest.raises(DatasetError, match="can be decoded"):
        estimate(str(tmp_path), f"local-dir:{reference_folder}", measure=True)


def test_first_shards_without_a_usable_pair_are_passed_over(dataset: Path) -> None:
    first, *others = (path.stat().st_size for path in sorted(dataset.glob("*.tar")))
    (dataset / "0.tar").write_bytes(b"")
    (dataset / "00.tar").symlink_to("/nowhere")
    (dataset / "000.tar").write_bytes(bytes(1024))  # no member
    (dataset / "0000.tar").write_bytes((dataset / "00000.tar").read_bytes()[: first // 2])
    found = estimate(str(dataset), "ViT-B-32", device="l4")
    known, size = 1024 + first, found.bytes  # what the cut shard gave does not count
    assert size == 1024 + (dataset / "0000.tar").stat().st_size + first + sum(others)
    assert (found.shards, found.pairs) == (7, round(8 * size / known))
    assert estimate(str(dataset), "ViT-B-32", device="l4", pairs=5).pairs == 5


def test_what_is_no_tar_is_told_before_anything_is_loaded(
    tmp_path: Path, write_tar: Callable
) -> None:
    tar = write_tar(tmp_path / "0.tar", [{"a.jpg": b"x", "a.txt": b"x"}])
    tar.write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(DatasetError, match=r"0\.tar is no tar but gzip"):
        estimate(str(tmp_path), "ViT-B-32", device="l4")
