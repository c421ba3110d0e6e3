"""Which files of a folder are listed: links, hidden names, and what can't be looked at."""

import os
from pathlib import Path

import pytest

from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.dataset.tree import is_hidden, list_files
from rhocache_schemas.errors import DatasetError, InvalidInput, ShardError, UriNotAllowed
from rhocache_schemas.job.allowed_roots import open_allowed


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def shards(root: Path) -> list[str]:
    return [shard.name for shard in list_shards(str(root))]


@pytest.mark.parametrize(
    "name",
    ["._00.tar", "a/._00.tar", ".Trash-1000/files/00.tar", "a/.snapshot/00.tar", "__MACOSX/00.tar",
     "x/_temporary/0/00.tar", "$RECYCLE.BIN/00.tar", "@eaDir/00.tar", ".tar"],
)  # fmt: skip
def test_hidden_names_are_no_shards(tmp_path: Path, name: str):
    assert is_hidden(name)
    root = tmp_path / ".cache" / "data"  # what leads to a dataset may well be hidden
    assert shards(make(root, name, "00.tar", "_a/b_.tar", "a..b/c.tar")) == [
        "00.tar", "_a/b_.tar", "a..b/c.tar",
    ]  # fmt: skip


def test_links_to_folders_above_make_no_shard_twice(tmp_path: Path):
    root = make(tmp_path / "data", "a/00.tar", "b/c/01.tar")
    (root / "self").symlink_to(".")
    (root / "b" / "up").symlink_to("..")
    (root / "b" / "c" / "above").symlink_to(tmp_path)
    (root / "slash").symlink_to("/")
    assert shards(root) == ["a/00.tar", "b/c/01.tar"]
    (tmp_path / "link").symlink_to(root)
    assert shards(tmp_path / "link") == ["a/00.tar", "b/c/01.tar"]


def test_folders_that_link_to_one_another_are_listed_once(tmp_path: Path):
    names = [f"{number}/0.tar" for number in range(12)]
    make(tmp_path, *names)
    for one in range(12):
        for other in {*range(12)} - {one}:
            (tmp_path / str(one) / f"to{other}").symlink_to(tmp_path / str(other))
    assert shards(tmp_path) == sorted(names)


def test_links_elsewhere_are_followed(tmp_path: Path):
    make(tmp_path / "disk", "part/00.tar", "one.tar")
    root = make(tmp_path / "data", "z/01.tar")
    (root / "part").symlink_to(tmp_path / "disk" / "part")
    (root / "disk").symlink_to(tmp_path / "disk")
    (root / "two.tar").symlink_to(tmp_path / "disk" / "one.tar")
    (root / "again").symlink_to("z")  # a folder of its own name already
    assert shards(root) == ["disk/one.tar", "disk/part/00.tar", "two.tar", "z/01.tar"]
    assert [shard.size for shard in list_shards(str(root))] == [1] * 4


@pytest.mark.parametrize("kind", ["nothing", "itself", "too long", "fifo", "device"])
def test_a_shard_that_can_not_be_read_is_one_that_fails(tmp_path: Path, kind: str):
    path = make(tmp_path, "00.tar") / "01.tar"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        targets = {"nothing": "/nowhere/x", "itself": "01.tar", "device": "/dev/zero"}
        path.symlink_to(targets.get(kind, "x" * 300))
    _, shard = list_shards(str(tmp_path))
    assert shard.name == "01.tar"
    with pytest.raises(ShardError) as caught:  # and it does not wait for what never comes
        list(ShardReader(shard))
    assert caught.value.code == "io_error"


@pytest.mark.parametrize("target", ["/nowhere/part", "part"])
def test_a_link_that_may_have_been_a_folder(tmp_path: Path, target: str):
    (make(tmp_path, "00.tar") / "part").symlink_to(target)
    with pytest.raises(DatasetError, match=r"/part can't be followed .*mend or remove it"):
        shards(tmp_path)


def test_a_name_that_is_not_utf8(tmp_path: Path):
    (tmp_path / os.fsdecode(b"\xff.tar")).write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"udcff\.tar' is not UTF-8"):
        shards(tmp_path)


def test_a_cache_among_the_data_is_none_of_it(tmp_path: Path):
    files = ("plan.json", "index.parquet", "shards/00.tar.parquet")
    make(tmp_path, "00.tar", *(f"out/{name}" for name in files))
    assert shards(tmp_path) == ["00.tar"]
    names = [entry.name for entry in list_files(str(tmp_path), ())]
    assert names == ["00.tar", "out/plan.json"]


def test_a_job_looks_into_no_link_out_of_its_roots(tmp_path: Path):
    make(tmp_path / "secret", "private.parquet")
    root = make(tmp_path / "root", "00.tar")
    (root / "out").symlink_to(tmp_path / "secret")
    with pytest.raises(UriNotAllowed, match="/root/out"):
        open_allowed(Source(dataset=str(root)), roots=[str(root)])
