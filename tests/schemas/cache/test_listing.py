"""What a cache's listings find, in folders that are made file by file."""

import json
import os
import re
from pathlib import Path

import pytest

from rhocache_schemas.cache import listing
from rhocache_schemas.cache.documents import ShardFailure
from rhocache_schemas.errors import RhocacheError

NOT_UTF8 = os.fsdecode(b"\xff.tar")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two shards, one of them in a folder, two failures, and a document of each kind."""
    failure = {"code": "tar_truncated", "detail": "ends early", "failed_at": 5.0}
    for shard in ("2.tar", "b/3.tar"):
        write(tmp_path / "failures" / f"{shard}.json", json.dumps({"shard": shard} | failure))
    for name, content in (("0.tar", "0123"), ("a/1.tar", "01")):
        write(tmp_path / "shards" / f"{name}.parquet", content)
    for document in ("plan", "progress", "manifest", "lease"):
        write(tmp_path / f"{document}.json")
    write(tmp_path / "index.parquet")
    return tmp_path


def write(path: Path, content: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_shard_files_by_name_with_their_sizes(cache: Path) -> None:
    for other in ("0.tar.parquet.tmp", "0.tar.json", f"{NOT_UTF8}.parquet"):
        write(cache / "shards" / other)
    (cache / "shards" / "folder.parquet").mkdir()
    found = listing.shard_files(str(cache))
    assert {name: info.size for name, info in found.items()} == {"0.tar": 4, "a/1.tar": 2}


def test_failures_by_name(cache: Path) -> None:
    write(cache / "failures" / "4.tar.json.tmp")
    assert listing.failure_files(str(cache)) == {"2.tar", "b/3.tar"}
    assert listing.read_failures(str(cache)) == {
        name: ShardFailure(shard=name, code="tar_truncated", detail="ends early", failed_at=5.0)
        for name in ("2.tar", "b/3.tar")
    }


def test_what_is_not_there_has_no_files(tmp_path: Path) -> None:
    for cache in (tmp_path, tmp_path / "missing"):
        assert listing.shard_files(str(cache)) == {}
        assert listing.failure_files(str(cache)) == set()
        assert listing.unknown_files(str(cache), [], []) == []


def test_unknown_are_the_files_of_no_document_no_shard_and_no_failure(cache: Path) -> None:
    (cache / "empty").mkdir()
    write(cache / "shards" / "0.tar.parquet.tmp")  # a run may be at work
    shards, failed = ["0.tar", "a/1.tar"], ["2.tar", "b/3.tar"]
    assert listing.unknown_files(str(cache), shards, failed) == []
    assert listing.unknown_files(str(cache), shards[:1], failed[1:]) == [
        "failures/2.tar.json",
        "shards/a/1.tar.parquet",
    ]
    write(cache / "notes" / "plan.json")
    write(cache / "shards" / f"{NOT_UTF8}.parquet")
    assert listing.unknown_files(str(cache), shards, failed) == [
        "notes/plan.json",
        r"shards/\udcff.tar.parquet",
    ]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("no folder")
    where = f"{tmp_path}/shards"
    with pytest.raises(RhocacheError, match=re.escape(f"cannot list {where}")):
        listing.shard_files(str(tmp_path))


def test_which_of_some_shards_are_there(cache: Path) -> None:
    (cache / "shards" / "folder.parquet").mkdir()
    asked = ["a/1.tar", "0.tar", "2.tar", "folder", "none.tar"]
    assert listing.shards_there(str(cache), asked) == {"a/1.tar", "0.tar"}
    assert listing.shards_there(str(cache), []) == set()
