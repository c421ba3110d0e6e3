"""Compressed tars: read as what is in them is, and no more of it than pictures could be."""

import gzip
import hashlib
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hostile
import pyarrow as pa
import pytest

from rhocache_schemas.dataset.formats.webdataset import ShardReader, check_shards
from rhocache_schemas.dataset.pair import DEFAULT_LIMITS, Limits, Pair
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.errors import DatasetError, ShardError, ShardErrorCode


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "0.tar.gz": lambda data: gzip.compress(data, 1),
    "0.tar.zst": zstd,
}
GOOD = hostile.good("a") + hostile.good("b") + hostile.good("c") + hostile.END


def read(
    path: Path, data: bytes, field: str | None = None, limits: Limits = DEFAULT_LIMITS
) -> list[Pair]:
    path.write_bytes(data)
    reader = ShardReader(list_shards(str(path))[0], field, limits)
    pairs = list(reader)
    assert reader.sha256 == hashlib.sha256(data).hexdigest()
    assert reader.position <= len(data)
    return pairs


def fails(path: Path, data: bytes, message: str, limits: Limits = DEFAULT_LIMITS) -> None:
    with pytest.raises(ShardError, match=message) as caught:
        read(path, data, limits=limits)
    assert caught.value.code == ShardErrorCode.TAR_TRUNCATED


@pytest.mark.parametrize("name", COMPRESS)
def test_each_hostile_case_yields_what_it_does_as_a_plain_tar(tmp_path: Path, name: str) -> None:
    for case in hostile.corpus():
        outcomes: list[object] = []
        for place, data in (("0.tar", case.shard), (name, COMPRESS[name](case.shard))):
            try:
                pairs = read(tmp_path / place, data, case.caption_field)
                outcomes.append([replace(pair, shard="") for pair in pairs])
            except ShardError as error:
                outcomes.append(error.code)
            (tmp_path / place).unlink()
        assert outcomes[0] == outcomes[1], case.name


@pytest.mark.parametrize("name", COMPRESS)
def test_what_is_cut_or_damaged(tmp_path: Path, name: str) -> None:
    data = COMPRESS[name](GOOD)
    assert [pair.key for pair in read(tmp_path / name, data)] == ["a", "b", "c"]
    for cut in (0, 1, 10, len(data) // 2, len(data) - 1):
        fails(tmp_path / name, data[:cut], "cut or damaged|empty|end")
    middle = len(data) // 2
    fails(tmp_path / name, data[:middle] + b"\xff" * 9 + data[middle + 9 :], "shard 0.tar")
    fails(tmp_path / name, data + b"rubbish" * 99, "shard 0.tar")
    fails(tmp_path / name, GOOD, "cut or damaged")


@pytest.mark.parametrize("name", COMPRESS)
def test_several_streams_in_one_file(tmp_path: Path, name: str) -> None:
    """As pigz and pzstd write it."""
    compress = COMPRESS[name]
    data = compress(GOOD[:3000]) + compress(GOOD[3000:3001]) + compress(GOOD[3001:])
    assert [pair.key for pair in read(tmp_path / name, data)] == ["a", "b", "c"]


@pytest.mark.parametrize("name", COMPRESS)
def test_a_bomb(tmp_path: Path, name: str) -> None:
    limits = Limits(member_bytes=1 << 20, expansion=10)
    for bomb in (
        hostile.member("a.jpg", bytes(8 << 20)) + hostile.END,
        hostile.member("other", bytes(8 << 20)) + hostile.END,
        GOOD + bytes(8 << 20),
    ):
        fails(tmp_path / name, COMPRESS[name](bomb), "decompresses to over 10 times", limits)
    assert len(read(tmp_path / name, COMPRESS[name](GOOD), limits=limits)) == 3


def test_another_kind_than_the_name_says(tmp_path: Path) -> None:
    for name, data, kind in (
        ("0.tar.gz", zstd(GOOD), "zstd"),
        ("0.tar.zst", gzip.compress(GOOD), "gzip"),
        ("0.tar", gzip.compress(GOOD), "gzip"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(DatasetError, match=f"is no tar but {kind}.*suffix that says so"):
            check_shards(list_shards(str(path)))
    path.write_bytes(GOOD)
    check_shards(list_shards(str(path)))
    with tarfile.open(tmp_path / "0.tar.gz", "w:gz"):
        pass
    check_shards(list_shards(str(tmp_path / "0.tar.gz")))
