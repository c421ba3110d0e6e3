"""Rows of other caches are taken where the pairs are the same; only the others are encoded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.shard_file import ShardRows
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.reference.model import Reference
from rhocache_workers.run.driver import ScoreSummary, score

Members = dict[str, bytes]
Again = Callable[..., ScoreSpec]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each batch of the image tower had."""
    batches: list[int] = []
    encode = Reference.encode_images

    def counted(self: Reference, pixels: Any) -> Any:
        batches.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(Reference, "encode_images", counted)
    return batches


@pytest.fixture
def again(tmp_path: Path, scored: ScoreSpec) -> Again:
    """The job that is done already, with another output and what else is to be other."""

    def made(name: str, **fields: Any) -> ScoreSpec:
        own = {"output": str(tmp_path / name), "reuse": [scored.output]}
        return scored.model_copy(update=own | fields)

    return made


def rows(spec: ScoreSpec) -> dict[str, ShardRows]:
    """By shard, once the whole cache is found to be as its manifest and its index say."""
    cache = CacheReader.open(spec.output)
    names = list(cache.index)
    return {name: shard_file.decode(cache.shard_bytes(name), name)[0] for name in names}


def contents(spec: ScoreSpec) -> dict[str, str]:
    return {name: row.content_sha256 for name, row in CacheReader.open(spec.output).index.items()}


def reshard(pictures: list[Members], write_tar: Callable, folder: Path, sizes: list[int]) -> str:
    """All pairs, the last first, in tars of so many."""
    turned = pictures[::-1]
    for number, size in enumerate(sizes):
        write_tar(folder / f"new-{number}.tar", turned[:size])
        turned = turned[size:]
    return str(folder)


def score_counted(spec: ScoreSpec, seen: list[int]) -> tuple[ScoreSummary, int]:
    """The summary, and how many images went through the tower after calibration."""
    calibration = 13  # of a batch size of 4: of 4, of 1 and again of 4 images, of at least 8 rows
    seen.clear()
    return score(spec, here=True), sum(seen) - calibration


def test_pairs_in_other_shards_are_not_encoded(
    again: Again, pictures: list[Members], write_tar: Callable, tmp_path: Path, scored: ScoreSpec
) -> None:
    dataset = reshard(pictures, write_tar, tmp_path / "resharded", [5, 12, 7])
    spec = again("reused", dataset=dataset)
    summary = score(spec, here=True)
    scratch = again("scratch", dataset=dataset, reuse=[])
    plain = score(scratch, here=True)
    assert (summary.rows, summary.ok, summary.reused_pairs) == (24, plain.ok, 23)
    assert contents(spec) == contents(scratch)
