"""Several captions of a pair, from every place where a format may have them."""

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from pydantic import ValidationError

from rhocache_schemas.dataset.formats import open_dataset, read_shard
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import DatasetError, InvalidInput, RowErrorCode

# Of each pair: blank ones don't count, and the third has one alone.
LISTS = [["a bird", "a red bird", "bird on a wire"], ["", "a cat", " ", "the cat"], ["a house"]]
CHOSEN = [("a bird", "a red bird"), ("a cat", "the cat"), ("a house",)]


def place(kind: str, folder: Path) -> dict[str, Any]:
    """Write the pairs as ``kind`` says, and return the settings of their source."""
    folder.mkdir()
    named = {f"k{n}": captions for n, captions in enumerate(LISTS)}
    files = {f"{key}.jpg": key.encode() for key in named}
    if kind.endswith("members"):
        for key, captions in named.items():
            files |= {f"{key}.{n}.txt": text.encode() for n, text in enumerate(captions)}
        settings: dict[str, Any] = {"caption_suffix": "0.txt;1.txt;2.txt;3.txt"}
    else:
        files |= {f"{k}.json": json.dumps({"texts": texts}).encode() for k, texts in named.items()}
        settings = {"caption_field": "texts"}
    if kind.startswith("folder"):
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return {"dataset": str(folder), **settings}
    if kind.startswith("tar"):
        with tarfile.open(folder / "0.tar", "w") as tar:
            for name, data in sorted(files.items()):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return {"dataset": str(folder), **settings}
    columns = {f"c{n}": [dict(enumerate(each)).get(n) for each in LISTS] for n in range(4)}
    if kind == "csv":
        for key in named:
            (folder / f"{key}.jpg").write_bytes(key.encode())
        with (folder / "pairs.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["filepath", *columns])
            rows.writerows(zip([f"{k}.jpg" for k in named], *columns.values(), strict=True))
        return {"dataset": str(folder / "pairs.csv"), "caption_column": "c0; c1;c2;c3"}
    table: dict[str, Any] = {"key": list(named), "image": [key.encode() for key in named]}
    if kind == "parquet list":
        settings, columns = {"caption_column": "texts"}, {"texts": LISTS}
    else:
        settings = {"caption_column": "c0;c1;c2;c3"}
    pq.write_table(pa.table(table | columns), folder / "0.parquet")
    return {"dataset": str(folder), **settings}


def read(settings: dict[str, Any], captions: int | None) -> list[Pair]:
    source = Source(**settings, captions=captions)
    return [pair for shard in open_dataset(source).shards for pair in read_shard(shard, source)]


KINDS = [
    "tar members",
    "tar list",
    "folder members",
    "folder list",
    "parquet list",
    "parquet columns",
    "csv",
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_that_are_not_blank_are_read(kind: str, tmp_path: Path) -> None:
    settings = place(kind, tmp_path / "data")
    pairs = read(settings, 2)
    assert [pair.captions for pair in pairs] == CHOSEN
    assert [pair.error for pair in pairs] == [None] * 3
    for pair, captions in zip(pairs, CHOSEN, strict=True):
        data = captions[0].encode()
        if len(captions) > 1:
            data = b"".join(len(t).to_bytes(8, "little") + t for t in map(str.encode, captions))
        assert pair.caption_hash == xxhash.xxh3_128_digest(data)
    assert [pair.captions for pair in read(settings, 1)] == [each[:1] for each in CHOSEN]
    assert [len(pair.captions) for pair in read(settings, 64)] == [3, 2, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_with_another_second_caption_is_another(kind: str, tmp_path: Path) -> None:
    def digests(captions: int) -> list[str | None]:
        source = Source(**settings, captions=captions)
        readers = [read_shard(shard, source) for shard in open_dataset(source).shards]
        for reader in readers:
            list(reader)
        return [reader.sha256 for reader in readers]

    settings = place(kind, tmp_path / "data")
    # A tar is the same file; of others it is known by what was read of it.
    assert (digests(1) == digests(2)) == kind.startswith("tar")


def test_json_and_text_beside_each_other(tmp_path: Path) -> None:
    for name, data in {
        "a.jpg": "image",
        "a.txt": "by hand",
        "a.json": json.dumps({"made": ["by a model", "another"]}),
    }.items():
        (tmp_path / name).write_text(data)
    settings = {"dataset": str(tmp_path), "caption_suffix": "txt;json", "caption_field": "made"}
    (pair,) = read(settings, 3)
    assert pair.captions == ("by hand", "by a model", "another")
    assert json.loads(pair.metadata or b"") == {"made": ["by a model", "another"]}


def test_captions_that_are_blank_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("image")
    (tmp_path / "a.txt").write_text(" ")
    (tmp_path / "a.alt.txt").write_text("")
    (pair,) = read({"dataset": str(tmp_path), "caption_suffix": "txt;alt.txt"}, 2)
    assert pair.error == RowErrorCode.TEXT_MISSING


def test_one_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("image")
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "a.alt.txt").write_bytes(b"\xff")
    (pair,) = read({"dataset": str(tmp_path), "caption_suffix": "txt;alt.txt"}, 2)
    assert pair.error == RowErrorCode.TEXT_NOT_UTF8


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ("c0;c9", "has no column c9; it has "),
        ("c0;c0", "'c0;c0' names no columns, or one twice"),
        (";", "';' names no columns"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet columns"])
def test_columns_that_are_not_there(kind: str, columns: str, told: str, tmp_path: Path) -> None:
    settings = place(kind, tmp_path / "data") | {"caption_column": columns}
    with pytest.raises((DatasetError, InvalidInput), match=told):
        read(settings, 2)


@pytest.mark.parametrize("captions", [0, 65, -1])
def test_how_many_there_may_be(captions: int) -> None:
    with pytest.raises(ValidationError, match="captions"):
        Source(dataset="d", captions=captions)


def test_one_is_what_was_never_asked_for() -> None:
    assert Source(dataset="d", captions=1) == Source(dataset="d")
