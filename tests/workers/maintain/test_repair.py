from pathlib import Path

import pytest

from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.maintain.repair import repair
from rhocache_workers.maintain.verify import verify


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("also", [None, "index.parquet", "manifest.json"])
def test_only_what_is_broken_is_encoded_again(
    copied: ScoreSpec, also: str | None, crew_here: None
) -> None:
    root = Path(copied.output)
    whole = {path.name: path.read_bytes() for path in (root / "shards").iterdir()}
    flip(root / "shards" / "00001.tar.parquet")
    (root / "shards" / "00002.tar.parquet").unlink()
    if also == "index.parquet":
        flip(root / also)
    elif also == "manifest.json":
        (root / also).write_text("{}")
    inode = (root / "shards" / "00000.tar.parquet").stat().st_ino
    report = verify(str(root))
    assert not report.ok
    repair(report, dataset=copied.dataset)
    report = verify(str(root), copied.dataset)
    assert (report.findings, report.pairs_compared) == ([], 24)
    assert {path.name: path.read_bytes() for path in (root / "shards").iterdir()} == whole
    assert (root / "shards" / "00000.tar.parquet").stat().st_ino == inode


def test_deep_looks_at_the_dataset_that_was_scored(copied: ScoreSpec, scored: ScoreSpec) -> None:
    assert verify(copied.output, deep=True).pairs_compared == 24
