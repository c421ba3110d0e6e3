from pathlib import Path

import pytest

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.errors import CacheBusy, StorageError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.maintain.verify import verify
from rhocache_workers.messages import CommittedShard, Description
from rhocache_workers.run.commit import commit
from rhocache_workers.run.resume import resume
from rhocache_workers.run.standing import Standing


@pytest.fixture
def description(copied: ScoreSpec) -> Description:
    manifest = Manifest.read(f"{copied.output}/manifest.json")
    return Description(
        fingerprint=manifest.fingerprint,
        dimension=manifest.dimension,
        logit_scale=manifest.logit_scale,
        logit_bias=manifest.logit_bias,
        device="cpu",
        batch_size=manifest.batch_size,
        software=manifest.software,
    )


@pytest.fixture
def committed(copied: ScoreSpec, description: Description) -> list[CommittedShard]:
    shards = list_shards(copied.dataset)
    standing = Standing.of(copied.output)
    return list(resume(copied, shards, standing, None, redo=False).keep.values())


def test_a_commit_of_fewer_shards_is_consistent(
    copied: ScoreSpec, description: Description, committed: list[CommittedShard]
) -> None:
    commit(copied, description, None, committed[:2], {}, lambda: None)
    report = verify(copied.output)
    assert (report.findings, report.shards, report.rows) == ([], 2, 16)
    assert any("shards/00002.tar.parquet is named by no line" in note for note in report.notes)


def test_no_manifest_stands_beside_an_index_that_it_does_not_name(
    copied: ScoreSpec, description: Description, committed: list[CommittedShard]
) -> None:
    path = Path(copied.output, "index.parquet")
    path.unlink()
    (path / "in the way").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"index\.parquet"):
        commit(copied, description, None, committed[:2], {}, lambda: None)
    assert not Path(copied.output, "manifest.json").exists()


def test_nothing_is_committed_once_the_lease_is_lost(
    copied: ScoreSpec, description: Description, committed: list[CommittedShard]
) -> None:
    def lost() -> None:
        raise CacheBusy("taken over")

    before = {file.name: file.read_bytes() for file in Path(copied.output).glob("*.*")}
    with pytest.raises(CacheBusy):
        commit(copied, description, None, committed[:2], {}, lost)
    assert {file.name: file.read_bytes() for file in Path(copied.output).glob("*.*")} == before
