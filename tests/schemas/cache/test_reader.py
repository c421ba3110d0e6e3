import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import xxhash
from caches import commit, flip_index
from faults import FaultyDisk

from rhocache_schemas import abandonment, storage
from rhocache_schemas.cache import reader
from rhocache_schemas.cache.reader import CacheReader, changes
from rhocache_schemas.cache.shard_file import FailedRow, ShardRows
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.errors import (
    Abandoned,
    CacheCorrupt,
    CacheIncomplete,
    CacheNotFound,
    InvalidDocument,
    StorageError,
)

SHARD = "a/00000.tar"


def rows(status: list[str]) -> ShardRows:
    count = len(status)
    vectors = np.zeros((count, 1, 4), np.float16)
    vectors[..., 0] = 1
    return ShardRows(
        keys=[f"key {number}" for number in range(count)],
        status=status,
        image=vectors,
        text=vectors,
        similarity=np.linspace(0, 1, count, dtype=np.float32),
        image_hash=[b"image..."] * count,
        caption_hash=[None] * count,
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    shards = {
        SHARD: rows(["ok", "image_missing", "ok", "text_missing", "image_missing"]),
        "b.tar": rows(["ok"]),
    }
    return commit(tmp_path / "cache", shards, failed_shards={"c.tar": "tar_truncated"})


def shard_file(cache: Path) -> Path:
    return cache / "shards" / f"{SHARD}.parquet"


def test_the_manifest_is_read_alone(cache: Path) -> None:
    (cache / "index.parquet").unlink()
    reader = CacheReader.open(str(cache))
    assert reader.manifest.rows == 6
    assert reader.columns(SHARD, ["row"])["row"].to_pylist() == [0, 1, 2, 3, 4]
    with pytest.raises(CacheIncomplete, match=r"no index\.parquet.*--repair"):
        _ = reader.index


def test_the_index_is_read_once(cache: Path) -> None:
    reader = CacheReader.open(f"file://{cache}")
    assert [(row.name, row.rows, row.ok) for row in reader.index.values()] == [
        (SHARD, 5, 2),
        ("b.tar", 1, 1),
    ]
    (cache / "index.parquet").unlink()
    assert list(reader.index) == [SHARD, "b.tar"]


def test_nothing_is_committed(cache: Path) -> None:
    (cache / "manifest.json").unlink()
    assert CacheReader.find(str(cache)) is None
    with pytest.raises(CacheNotFound, match="there is no cache at"):
        CacheReader.open(str(cache))
    (cache / "plan.json").write_text("{}")
    with pytest.raises(CacheIncomplete, match=r"no manifest\.json"):
        CacheReader.open(str(cache))


def test_wherever_the_index_is_damaged_it_is_named(cache: Path) -> None:
    path = cache / "index.parquet"
    whole = path.read_bytes()
    named = hashlib.sha256(whole).hexdigest()
    for place in range(0, len(whole), 37):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        found = hashlib.sha256(data).hexdigest()
        told = rf"index\.parquet has SHA-256 {found}, .*manifest\.json names {named}: .*--repair"
        with pytest.raises(CacheCorrupt, match=told):
            _ = CacheReader.open(str(cache)).index


def test_an_index_of_a_later_commit_is_no_damage(cache: Path) -> None:
    reader = CacheReader.open(str(cache))
    commit(cache, {SHARD: rows(["ok"])})
    with pytest.raises(CacheIncomplete, match="changed by a job since it was opened"):
        _ = reader.index
    early = CacheReader.open(str(cache))
    assert list(early.index) == [SHARD]
    commit(cache, {SHARD: rows(["ok", "ok"])})
    with pytest.raises(CacheIncomplete, match="changed by a job since it was opened"):
        early.shard_bytes(SHARD)
    flip_index(cache)
    (cache / "manifest.json").unlink()  # as a job does that is about to commit
    with pytest.raises(CacheIncomplete, match="changed by a job since it was opened"):
        _ = reader.index


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"fingerprint_sha256": "f" * 64}, CacheCorrupt), ({"rows": -1}, InvalidDocument)],
)
def test_a_damaged_manifest(cache: Path, changes: dict, error: type[Exception]) -> None:
    path = cache / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(error, match=r"manifest\.json"):
        CacheReader.find(str(cache))


def test_a_damaged_or_missing_shard_file(cache: Path) -> None:
    reader, path = CacheReader.open(str(cache)), shard_file(cache)
    whole = path.read_bytes()
    assert reader.shard_bytes(SHARD) == whole
    reader.check_files([SHARD])
    path.write_bytes(b"PAR1" + whole[4:-4] + b"1RAP")
    for read in (reader.shard_bytes, lambda name: reader.columns(name, ["key"])):
        with pytest.raises(CacheCorrupt, match=r"a/00000\.tar\.parquet has SHA-256 .*index"):
            read(SHARD)
    path.write_bytes(whole[:-1])
    with pytest.raises(CacheCorrupt, match=rf"has {len(whole) - 1} bytes"):
        reader.check_files([SHARD])
    path.unlink()
    for read in (
        reader.shard_bytes,
        lambda name: reader.columns(name, ["key"]),
        lambda name: reader.check_files([name]),
    ):
        with pytest.raises(CacheIncomplete, match=r"a/00000\.tar\.parquet is in the index"):
            read(SHARD)


def test_a_storage_that_fails_is_no_damage(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "resolve", storage.resolve)  # to be as it was, after the test
    faults = [OSError("the network is down")]

    def strike(step: str, path: str) -> None:
        if path.endswith("tar.parquet") and faults:
            raise faults.pop()

    FaultyDisk(strike).install()
    reader = CacheReader.open(str(cache))
    with pytest.raises(StorageError, match="the network is down"):
        reader.columns(SHARD, ["key"])
    assert len(reader.columns(SHARD, ["key"])) == 5


def test_a_shard_that_the_cache_does_not_have(cache: Path) -> None:
    reader = CacheReader.open(str(cache))
    with pytest.raises(CacheIncomplete, match=r"no shard c\.tar: it could not be read.*truncated"):
        reader.shard_bytes("c.tar")
    with pytest.raises(CacheIncomplete, match=r"no shard d\.tar.*another dataset"):
        reader.columns("d.tar", ["key"])


def test_what_failed(cache: Path) -> None:
    reader = CacheReader.open(str(cache))
    assert reader.failures(SHARD) == [
        FailedRow(1, "key 1", "image_missing"),
        FailedRow(3, "key 3", "text_missing"),
        FailedRow(4, "key 4", "image_missing"),
    ]
    assert reader.failed_by_code(SHARD) == {"image_missing": 2, "text_missing": 1}
    (cache / "shards" / "b.tar.parquet").unlink()  # which is not looked at
    assert (reader.failures("b.tar"), reader.failed_by_code("b.tar")) == ([], {})


def test_whether_a_pair_is_the_same() -> None:
    pair = Pair(SHARD, 0, "key", b"an image", "a caption")
    image, caption = (xxhash.xxh3_64_digest(data) for data in (b"an image", b"a caption"))
    told = {what: f"the {what} is not the one that was scored" for what in ("image", "caption")}
    assert changes(pair, image, caption) == []
    assert changes(pair, image, None) == [told["caption"]]
    assert changes(pair, caption, image) == [told["image"], told["caption"]]
    assert changes(Pair(SHARD, 0, "key", None, "a caption"), None, caption) == []
    wide = [xxhash.xxh3_128_digest(data) for data in (b"an image", b"a caption")]
    assert changes(pair, *wide) == changes(pair, wide[0], caption) == []
    assert changes(pair, wide[1], wide[0]) == [told["image"], told["caption"]]
    assert changes(pair, None, None) == [told["image"], told["caption"]]
    assert changes(pair, None, None, imported=True) == []
    assert changes(pair, caption, None, imported=True) == [told["image"]]


def test_columns_of_all_shards_come_in_order_as_those_of_each(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_BATCH", 1)
    opened = CacheReader.open(str(cache))
    names, columns = ["b.tar", SHARD, "b.tar"], ["key", "similarity"]
    found = list(opened.columns_of_all(names, columns))
    assert [name for name, _ in found] == names
    assert [table for _, table in found] == [opened.columns(name, columns) for name in names]
    shard_file(cache).unlink()
    with pytest.raises(CacheIncomplete, match=SHARD):
        list(opened.columns_of_all(names, columns))
    with (
        abandonment.until(lambda: True),
        pytest.raises(Abandoned),
    ):
        list(opened.columns_of_all(["b.tar"], columns))
