import os
from pathlib import Path

import pytest

from rhocache_schemas import abandonment
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.errors import Abandoned, DatasetError, InvalidInput


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


def test_a_few_shards_that_are_not_there_are_enough_to_know(dataset: Path) -> None:
    with pytest.raises(DatasetError, match="1000 of the first 1,000 of 900,000 shards"):
        list_shards(f"{dataset}/{{0..899999}}.tar")


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000, "a\0b", "{0..99999999}"])
def test_what_can_be_no_dataset(dataset: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        list_shards(f"{dataset}/{name}")


def test_nobody_waits_for_it_any_more(dataset: Path) -> None:
    for number in range(50):
        (dataset / str(number)).symlink_to(".")
    asked = iter([False, True])  # between two looks at a thousand shards each
    with abandonment.until(lambda: next(asked)), pytest.raises(Abandoned):
        list_shards(f"{dataset}/{{0..49}}/{{0..49}}/01.tar")


def test_suffixes_in_upper_case(dataset: Path) -> None:
    (dataset / "b" / "UP.TAR").write_bytes(b"")
    assert names(str(dataset / "b")) == ["0.tar", "UP.TAR"]


@pytest.mark.parametrize(
    "other",
    ["03.tar.xz", "b/03.tar.lz4", "03.tar.bz2", "03.txz", "03.parquet", "b/00.parquet"],
)
def test_what_would_be_left_out_is_named(dataset: Path, other: str) -> None:
    """img2dataset's Parquet beside each tar is no such thing, nor what a tar was unpacked from."""
    for beside in ("00.parquet", "00_stats.json", "b/0.parquet", "02.tar.gz"):
        (dataset / beside).write_bytes(b"")
    assert names(str(dataset)) == ["00.tar", "01.tar", "02.tar", "b/0.tar"]
    (dataset / other).write_bytes(b"")
    with pytest.raises(DatasetError, match=f"{other} can't be read as shards.*glob"):
        list_shards(str(dataset))
    with pytest.raises(DatasetError, match=f"{other} can't be read as shards"):
        list_shards(str(dataset), f"*{other}")
    with pytest.raises(DatasetError, match="can't be read as shards"):
        list_shards(str(dataset / other))
    assert names(str(dataset), "*.tar") == ["00.tar", "01.tar", "02.tar", "b/0.tar"]


def test_compressed_tars_are_shards_where_no_plain_one_is_beside_them(dataset: Path) -> None:
    for name in ("03.tar.gz", "04.TGZ", "b/05.tar.zst", "b/0.tar.zst", "06.tzst"):
        (dataset / name).write_bytes(b"")
    found = ["00.tar", "01.tar", "02.tar", "03.tar.gz", "04.TGZ", "06.tzst"]
    assert names(str(dataset)) == [*found, "b/0.tar", "b/05.tar.zst"]
    assert names(str(dataset / "03.tar.gz")) == ["03.tar.gz"]
    assert names(f"{dataset}/{{03.tar.gz,b/05.tar.zst}}") == ["03.tar.gz", "b/05.tar.zst"]


def test_a_folder_of_something_else(dataset: Path) -> None:
    (dataset / "other").mkdir()
    for name in ("a.jpg", "a.txt"):
        (dataset / "other" / name).write_bytes(b"")
    with pytest.raises(DatasetError, match=r"holds no \.tar file; it has a\.jpg, a\.txt"):
        list_shards(str(dataset / "other"))


def test_what_is_no_file() -> None:
    with pytest.raises(DatasetError, match="neither a folder nor a regular file"):
        list_shards("/dev/null")
