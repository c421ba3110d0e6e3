"""Deleting caches: what goes, what stays, and when it is refused."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from caches import commit
from faults import FaultyDisk

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.deletion import contents, delete_cache
from rhocache_schemas.cache.documents import LeaseHolder
from rhocache_schemas.cache.lease import Lease
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.shard_file import ShardRows
from rhocache_schemas.errors import CacheBusy, CacheNotFound, StorageError

ROWS = ShardRows(
    keys=["key"],
    status=["ok"],
    image=np.ones((1, 1, 4), np.float16) / 2,
    text=np.ones((1, 1, 4), np.float16) / 2,
    similarity=np.ones(1, np.float32),
    image_hash=[b"image..."],
    caption_hash=[b"caption."],
)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A committed cache of four shards with a plan, a failure, notes and what a killed run left."""
    made = commit(tmp_path / "cache", {f"{name}.tar": ROWS for name in ("a", "b", "c/d", "c/e")})
    for name in (
        "plan.json", "progress.json", "failures/x/f.tar.json", "segments/000001.parquet",
        "shards/c/.d.tar.parquet.01234567.tmp", ".manifest.json.01234567.tmp",
    ):  # fmt: skip
        write(made / name)
    return made


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


def test_a_cache_goes_with_its_folder(cache: Path) -> None:
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    found = contents(str(cache))
    assert (len(found.own), found.bytes, found.foreign) == (13, size, [])
    assert delete_cache(str(cache)) == found
    assert not cache.exists()
    assert cache.parent.exists()


def test_files_that_are_not_the_caches_stay(cache: Path, tmp_path: Path) -> None:
    """Nor does a link lead to what is elsewhere."""
    elsewhere = write(tmp_path / "elsewhere" / "g.parquet")
    (cache / "shards" / "link").symlink_to(elsewhere.parent)
    (cache / "shards" / "linked.parquet").symlink_to(elsewhere)
    mine = {"notes.txt", "shards/readme", "other/h.parquet", "plan.json.bak", ".hidden.tmp"}
    for name in mine:
        write(cache / name)
    write(cache / "shards" / os.fsdecode(b"\xff.parquet"))
    found = delete_cache(str(cache))
    left = {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}
    odd = {os.fsdecode(b"shards/\xff.parquet"), "shards/linked.parquet"}
    assert left == mine | odd
    assert set(found.foreign) == left | {"shards/link/g.parquet"}
    assert elsewhere.exists()


def test_what_is_no_cache_is_not_touched(tmp_path: Path) -> None:
    write(tmp_path / "shards" / "a.parquet")
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CacheNotFound, match=r"no cache at .*nothing is deleted"):
            delete_cache(str(place))
    assert [path.name for path in tmp_path.rglob("*")] == ["shards", "a.parquet"]


def test_a_cache_that_a_run_works_on_stays(cache: Path) -> None:
    before = sorted(cache.rglob("*"))
    with (
        Lease(str(cache), "job_1", renew_seconds=0.05),
        pytest.raises(CacheBusy, match="job job_1"),
    ):
        delete_cache(str(cache))
    assert sorted(cache.rglob("*")) == before


def test_a_run_that_takes_the_cache_over_is_left_alone(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a deletion that slept for long would find when it wakes up."""

    def take_over(step: str, path: str) -> None:
        if (step, path) == ("after delete", str(cache / layout.MANIFEST)):
            other = LeaseHolder(run="other", host="elsewhere", pid=1)
            (cache / layout.LEASE).write_bytes(other.to_json())

    monkeypatch.setattr(storage, "resolve", storage.resolve)
    FaultyDisk(take_over).install()
    with pytest.raises(CacheBusy, match="on elsewhere"):
        delete_cache(str(cache))
    assert len(list((cache / "shards").rglob("*.tar.parquet"))) == 4
    assert LeaseHolder.read(str(cache / layout.LEASE)).run == "other"


def test_cut_short_anywhere_it_leaves_an_incomplete_cache_and_goes_on(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = storage.resolve
    steps, last = 0, False
    while not last:
        made = commit(tmp_path / f"cut-{steps}", {"a.tar": ROWS, "b.tar": ROWS})
        write(made / "plan.json")
        left = iter(range(steps))

        def strike(step: str, path: str, left: Iterator[int] = left) -> None:
            if "delete" in step and layout.LEASE not in path and next(left, None) is None:
                raise OSError(5, "the disk is gone")

        with monkeypatch.context() as patch:
            patch.setattr(storage, "resolve", resolve)
            FaultyDisk(strike).install()
            try:
                delete_cache(str(made))
                last = True
            except StorageError:
                pass
        if not last:
            reader = CacheReader.find(str(made)) if steps else CacheReader.open(str(made))
            assert (reader is None) == (steps > 0)
            with suppress(CacheNotFound):  # nothing was left but its folders
                delete_cache(str(made))
        assert not any(path.is_file() for path in made.rglob("*"))
        steps += 1
    assert steps > 10
