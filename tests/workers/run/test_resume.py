"""What a second run makes of a cache: it may add to it, but never turn it into another."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rhocache_schemas.cache import index
from rhocache_schemas.cache.documents import Manifest, Plan
from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.errors import CacheCorrupt, DatasetError, DatasetMismatch, FingerprintMismatch
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.maintain.repair import repair
from rhocache_workers.maintain.verify import verify
from rhocache_workers.run import driver
from rhocache_workers.run.driver import score

pytestmark = pytest.mark.usefixtures("crew_here")


@pytest.fixture
def no_crew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a run wants Ray or the reference."""

    def hired(*_: object, here: bool) -> None:
        raise AssertionError("a crew was hired")

    monkeypatch.setattr(driver, "_crew", hired)


@pytest.fixture
def other(tmp_path: Path, pictures: list, write_tar: Callable) -> Path:
    """Another dataset, of two shards that are called as the first's are."""
    for shard in range(2):
        pairs = pictures[23 - 8 * shard : 15 - 8 * shard : -1]
        write_tar(tmp_path / "other" / f"{shard:05}.tar", pairs)
    return tmp_path / "other"


def files(spec: ScoreSpec) -> dict[str, bytes]:
    root = Path(spec.output)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*")}


def shards(spec: ScoreSpec) -> list[str]:
    data = Path(spec.output, "index.parquet").read_bytes()
    return [row.name for row in index.decode(data, "index")]


def test_another_dataset_is_refused(copied: ScoreSpec, other: Path, no_crew: None) -> None:
    before = files(copied)
    with pytest.raises(DatasetMismatch, match="2 have other contents and 1 are not there") as told:
        score(copied.model_copy(update={"dataset": str(other)}))
    assert Manifest.read(f"{copied.output}/manifest.json").dataset in str(told.value)
    assert str(other) in str(told.value)
    assert files(copied) == before


@pytest.mark.parametrize("keeps", ["manifest", "nothing but shard files"])
def test_other_names_alone_are_another_dataset(
    copied: ScoreSpec, other: Path, no_crew: None, keeps: str
) -> None:
    for shard in sorted(other.iterdir()):
        shard.rename(other / f"other-{shard.name}")
    if keeps != "manifest":
        Path(copied.output, "manifest.json").unlink()
    before = files(copied)
    with pytest.raises(DatasetMismatch, match="3 are not there"):
        score(copied.model_copy(update={"dataset": str(other)}))
    assert files(copied) == before


def test_a_run_that_was_interrupted_is_no_other_datasets(copied: ScoreSpec, other: Path) -> None:
    """Also where the other one is older than the files, under the names of the first."""
    Path(copied.output, "manifest.json").unlink()
    Path(copied.output, "index.parquet").unlink()
    before = files(copied)
    for where in (other, Path(copied.dataset)):
        if where != other:
            shutil.rmtree(where)
            shutil.move(other, where)
        with pytest.raises(DatasetMismatch, match="2 have other contents"):
            score(copied.model_copy(update={"dataset": str(where)}))
        assert files(copied) == before


def test_a_cache_with_nothing_in_it_becomes_any_datasets(copied: ScoreSpec, other: Path) -> None:
    root = Path(copied.output)
    plan = (root / "plan.json").read_bytes()
    shutil.rmtree(root)
    root.mkdir()
    (root / "plan.json").write_bytes(plan)
    score(copied.model_copy(update={"dataset": str(other)}))
    assert Plan.read(f"{root}/plan.json").spec.dataset == str(other)


def test_replacing_leaves_nothing_of_the_first(copied: ScoreSpec, other: Path) -> None:
    spec = copied.model_copy(update={"dataset": str(other), "replace": True})
    summary = score(spec)
    assert (summary.shards, summary.encoded_shards, summary.rows) == (2, 2, 16)
    assert shards(spec) == ["00000.tar", "00001.tar"]
    assert Manifest.read(f"{spec.output}/manifest.json").dataset == str(other)
    assert Plan.read(f"{spec.output}/plan.json").spec.dataset == str(other)
    assert verify(spec.output, deep=True).findings == []
    again = files(spec)
    assert score(spec).encoded_shards == 0
    assert score(spec.model_copy(update={"replace": False})).encoded_shards == 0
    assert files(spec) | {"progress.json": b""} == again | {"progress.json": b""}


def test_replacing_takes_another_reference_too(
    copied: ScoreSpec, make_reference: Callable[[int], Path]
) -> None:
    reference = copied.reference.model_copy(update={"model": f"local-dir:{make_reference(1)}"})
    spec = copied.model_copy(update={"reference": reference})
    with pytest.raises(FingerprintMismatch):
        score(spec)
    assert score(spec.model_copy(update={"replace": True})).encoded_shards == 3
    assert verify(spec.output, deep=True).findings == []


def test_a_dataset_that_moved_is_the_same(copied: ScoreSpec, tmp_path: Path, no_crew: None) -> None:
    before = Path(copied.output, "shards", "00001.tar.parquet").stat().st_mtime_ns
    moved = tmp_path / "elsewhere"
    shutil.copytree(copied.dataset, moved, copy_function=shutil.copyfile)  # with other times
    shutil.rmtree(copied.dataset)
    spec = copied.model_copy(update={"dataset": str(moved)})
    assert score(spec).encoded_shards == 0
    assert Path(copied.output, "shards", "00001.tar.parquet").stat().st_mtime_ns == before
    assert Manifest.read(f"{copied.output}/manifest.json").dataset == str(moved)
    assert verify(copied.output, deep=True).findings == []


def test_data_that_left_a_store_which_is_gone_is_the_same(copied: ScoreSpec, no_crew: None) -> None:
    manifest = Path(copied.output, "manifest.json")
    left = Manifest.read(str(manifest)).model_copy(update={"dataset": "hdfs://gone/data"})
    manifest.write_bytes(left.to_json())
    assert score(copied).encoded_shards == 0
    assert Manifest.read(str(manifest)).dataset == copied.dataset


def test_shards_that_are_not_asked_for_stay(spec: ScoreSpec) -> None:
    some = spec.model_copy(update={"shards": "*1.tar"})
    assert score(some).shards == 1
    assert score(spec.model_copy(update={"shards": "*[02].tar"})).shards == 3
    before = files(spec)
    for asked in (
        some,
        spec.model_copy(update={"dataset": f"{spec.dataset}/0000{{1..2}}.tar"}),
        spec.model_copy(update={"dataset": f"{spec.dataset}/00002.tar"}),
    ):
        summary = score(asked)
        assert (summary.shards, summary.rows, summary.encoded_shards) == (3, 24, 0)
        assert files(spec)["index.parquet"] == before["index.parquet"]
    assert verify(spec.output, spec.dataset).findings == []


def test_a_failed_shard_that_is_not_asked_for_stays_named(spec: ScoreSpec) -> None:
    tar = Path(spec.dataset) / "00001.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    score(spec)
    summary = score(spec.model_copy(update={"shards": "00000.tar"}))
    assert list(summary.failures) == ["00001.tar"]
    manifest = Manifest.read(f"{spec.output}/manifest.json")
    assert (manifest.shards, list(manifest.failed_shards)) == (2, ["00001.tar"])


def test_shards_that_are_gone_stay_until_that_is_said(copied: ScoreSpec, no_crew: None) -> None:
    Path(copied.dataset, "00000.tar").unlink()
    summary = score(copied)
    assert (summary.shards, summary.gone_shards, summary.rows) == (3, 1, 24)
    assert len(shards(copied)) == 3
    pruned = score(copied.model_copy(update={"prune": True}))
    assert (pruned.shards, pruned.gone_shards, pruned.rows) == (2, 0, 16)
    assert shards(copied) == ["00001.tar", "00002.tar"]
    assert verify(copied.output, deep=True).findings == []


def test_new_shards_are_taken_in(copied: ScoreSpec, pictures: list, write_tar: Callable) -> None:
    write_tar(Path(copied.dataset) / "more" / "00003.tar", pictures[:3])
    before = files(copied)
    summary = score(copied)
    assert (summary.shards, summary.encoded_shards, summary.rows) == (4, 1, 27)
    assert {name for name, data in files(copied).items() if before.get(name) != data} == {
        "index.parquet",
        "manifest.json",
        "progress.json",
        "shards/more/00003.tar.parquet",
        "summary.json",
    }


def test_a_cache_of_format_1_is_made_anew_or_left_alone(copied: ScoreSpec) -> None:
    for name in ("plan.json", "manifest.json"):
        path = Path(copied.output, name)
        told = json.loads(path.read_text())
        told["format_version"] = told["fingerprint"]["format_version"] = "1.0"
        if name == "manifest.json":
            told["fingerprint_sha256"] = Fingerprint(**told["fingerprint"]).digest
        path.write_text(json.dumps(told))
    before = files(copied)
    with pytest.raises(FingerprintMismatch, match=r"of format 1\.0.*another folder.*--replace"):
        score(copied, here=True)
    assert {name: data for name, data in files(copied).items() if name != "progress.json"} == {
        name: data for name, data in before.items() if name != "progress.json"
    }
    anew = score(copied.model_copy(update={"replace": True}), here=True)
    assert (anew.encoded_shards, anew.rows) == (3, 24)
    assert Manifest.read(f"{copied.output}/manifest.json").format_version == "2.0"


def test_a_changed_shard_among_others_stays_where_it_is_not_asked_for(copied: ScoreSpec) -> None:
    tar = Path(copied.dataset, "00001.tar")
    tar.write_bytes(tar.read_bytes() + bytes(10240))
    before = files(copied)
    assert score(copied.model_copy(update={"shards": "00000.tar"})).encoded_shards == 0
    assert files(copied)["index.parquet"] == before["index.parquet"]
    assert score(copied).encoded_shards == 1


def test_a_reference_with_another_name_or_other_files_is_loaded(
    copied: ScoreSpec, tmp_path: Path, reference_folder: Path, make_reference: Callable[[int], Path]
) -> None:
    folder = tmp_path / "reference"
    shutil.copytree(reference_folder, folder)
    reference = copied.reference.model_copy(update={"model": f"local-dir:{folder}"})
    spec = copied.model_copy(update={"reference": reference})
    assert score(spec).encoded_shards == 0
    shutil.copytree(make_reference(1), folder, dirs_exist_ok=True)
    with pytest.raises(FingerprintMismatch, match="weights_sha256"):
        score(spec)


def test_a_damaged_shard_is_not_committed_again_as_it_is(copied: ScoreSpec) -> None:
    Path(copied.output, "shards", "00001.tar.parquet").unlink()
    with pytest.raises(CacheCorrupt, match=r"shard 00001\.tar is damaged.*--repair"):
        score(copied.model_copy(update={"shards": "00000.tar"}))
    summary = repair(verify(copied.output), dataset=copied.dataset)
    assert (summary.encoded_shards, summary.shards) == (1, 3)
    assert verify(copied.output).findings == []


def test_what_is_broken_and_gone_is_not_dropped_by_a_repair(copied: ScoreSpec) -> None:
    Path(copied.output, "shards", "00001.tar.parquet").unlink()
    Path(copied.dataset, "00001.tar").unlink()
    before = files(copied)
    with pytest.raises(DatasetError, match=r"no shard 00001\.tar.*--prune"):
        repair(verify(copied.output), dataset=copied.dataset)
    assert files(copied) == before


def test_files_that_nothing_names_are_found(copied: ScoreSpec) -> None:
    root = Path(copied.output)
    strays = ("shards/a/00009.tar.parquet", "shards/notes.txt", "failures/00000.tar.json", "x")
    for stray in strays:
        (root / stray).parent.mkdir(parents=True, exist_ok=True)
        (root / stray).write_bytes(b"")
    assert [finding.where for finding in verify(copied.output).findings] == sorted(strays)
