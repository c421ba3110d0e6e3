import os
from pathlib import Path

import pytest

from rhocache_schemas.dataset import list_shards
from rhocache_schemas.errors import DatasetError, InvalidInput


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for name in ("b/0.tar", "00.tar", "01.tar", "02.tar", "notes.txt", "01.tar.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(3))
    return tmp_path


def names(dataset: str, pattern: str | None = None) -> list[str]:
    return [shard.name for shard in list_shards(dataset, pattern)]


def test_a_folder_gives_every_tar_below_it_by_name(dataset: Path) -> None:
    assert names(str(dataset)) == ["00.tar", "01.tar", "02.tar", "b/0.tar"]
    assert names(f"file://{dataset}/") == names(str(dataset))


def test_names_do_not_depend_on_how_the_dataset_is_given(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names(f"{dataset}/{{00..01}}.tar") == ["00.tar", "01.tar"]
    assert names(f"{dataset}/{{00,b/0}}.tar") == ["00.tar", "b/0.tar"]
    assert names(f"{dataset}/01.tar") == ["01.tar"]
    monkeypatch.chdir(dataset.parent)
    assert names(dataset.name) == names(str(dataset))


def test_braces_in_names_that_are_there_stand_for_themselves(tmp_path: Path) -> None:
    for name in ("data{1..2}/0.tar", "data{1..2}/1.tar", "data1/other.tar", "{a}.tar", "{b/x.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(f"{tmp_path}/data{{1..2}}") == ["0.tar", "1.tar"]
    assert names(f"{tmp_path}/data{{1..2}}/{{0..1}}.tar") == ["0.tar", "1.tar"]
    assert names(f"{tmp_path}/data{{1..2}}/0.tar") == ["0.tar"]
    assert names(f"{tmp_path}/{{a}}.tar") == ["{a}.tar"]
    assert names(f"{tmp_path}/{{b") == ["x.tar"]
    assert names(f"file://{tmp_path}/data%7B1..2%7D/{{0..1}}.tar") == ["0.tar", "1.tar"]
    (tmp_path / "data{1..2}").rename(tmp_path / "data2")
    (tmp_path / "data1" / "0.tar").touch()
    assert names(f"{tmp_path}/data{{1..2}}/0.tar") == ["data1/0.tar", "data2/0.tar"]


@pytest.mark.parametrize(
    "odd", ["a b", "100%", "%41", "a#b", "a?b=c", "'\"", "é", "a\nb", "-x", "~"]
)
def test_any_name_will_do(tmp_path: Path, odd: str) -> None:
    folder = tmp_path / odd
    folder.mkdir()
    (folder / f"{odd}.tar").touch()
    for given in (str(folder), folder.as_uri(), f"{folder}/{odd}.tar"):
        (shard,) = list_shards(given)
        assert (shard.name, shard.uri) == (f"{odd}.tar", f"{folder}/{odd}.tar")


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "0.tar").touch()
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).touch()
    assert names(str(tmp_path)) == ["0.tar"]
    (tmp_path / os.fsdecode(b"caf\xe9.tar")).touch()
    with pytest.raises(InvalidInput, match=r"caf\\udce9.tar' is not UTF-8; rename it"):
        names(str(tmp_path))


def test_glob(dataset: Path) -> None:
    assert names(str(dataset), "0[01].tar") == ["00.tar", "01.tar"]


def test_a_shard_knows_its_place_and_size(dataset: Path) -> None:
    shard = list_shards(str(dataset / "00.tar"))[0]
    assert (shard.uri, shard.size) == (str(dataset / "00.tar"), 3)
    assert shard.mtime_ns == (dataset / "00.tar").stat().st_mtime_ns


@pytest.mark.parametrize(
    ("given", "pattern", "message"),
    [
        ("nowhere", None, "no dataset at .*/nowhere: give a folder"),
        ("b", "x*", r"no shard of .* matches 'x\*'; it has 0.tar"),
        ("{00..04}.tar", None, "2 of 5 shards of .* are not there: .*/03.tar, .*/04.tar"),
        ("{00", None, "[Uu]nbalanced"),
        ("empty", None, "holds no .tar file"),
    ],
)
def test_nothing_there(dataset: Path, given: str, pattern: str | None, message: str) -> None:
    (dataset / "empty").mkdir()
    with pytest.raises(DatasetError, match=message):
        list_shards(f"{dataset}/{given}", pattern)
