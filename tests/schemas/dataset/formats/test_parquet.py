"""Tables of pairs in Parquet: the types of their columns, and files that are damaged."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_pairs import rows, write_parquet

from rhocache_schemas.dataset.formats.parquet import ParquetTable
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import DatasetError


def opened(dataset: Path, **source) -> ParquetTable:
    return ParquetTable(Source(dataset=str(dataset), **source))


def read(dataset: ParquetTable) -> list[Pair]:
    return [dataset.load(pair) for shard in dataset.shards for pair in dataset.read(shard)]


def test_a_shard_is_a_row_group_or_several_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_parquet(tmp_path / "pairs.parquet", rows(), group=5)
    for block, counts in ((5, [5, 5, 5, 5, 4]), (3, [5, 5, 5, 5, 4]), (8, [10, 10, 4])):
        monkeypatch.setattr("rhocache_schemas.dataset.formats.parquet.BLOCK", block)
        shards = opened(path).shards
        assert [shard.rows for shard in shards] == counts
        groups = -(-counts[0] // 5)
        names = [f"pairs.parquet#{groups * number:05}" for number in range(len(counts))]
        assert [shard.name for shard in shards] == names
        assert {shard.uri for shard in shards} == {str(path)}
        assert [pair.image for pair in read(opened(path))] == [row["image"] for row in rows()]


def test_files_of_a_folder_that_match_a_glob(tmp_path: Path):
    for name in "ab":
        write_parquet(tmp_path / f"{name}.parquet", rows()[:3])
    assert [shard.name for shard in opened(tmp_path, shards="b*").shards] == ["b.parquet#00000"]
    with pytest.raises(DatasetError, match=r"holds no \.parquet file that matches 'c\*'"):
        opened(tmp_path, shards="c*")


def test_rows_that_can_not_be_used(tmp_path: Path):
    table = pa.table(
        {
            "image": pa.array([b"x", None, b"", b"x", b"x"], pa.binary()),
            "caption": pa.array([b"a", b"a", b"a", b"\xff", None], pa.binary()),
        }
    )
    pq.write_table(table, tmp_path / "pairs.parquet")
    pairs = read(opened(tmp_path / "pairs.parquet"))
    assert [pair.error for pair in pairs] == [
        None,
        "image_missing",
        "image_missing",
        "text_not_utf8",
        "text_missing",
    ]
    assert pairs[3].image == b"x"


@pytest.mark.parametrize("column", ["none", "key", "path"])
def test_what_has_no_key_is_called_by_its_row(tmp_path: Path, column: str):
    """In Hugging Face's Parquet many a path is null."""
    keys = [None if row % 3 else f"k{row}" for row in range(24)]
    content = [{"image": row["image"], "caption": row["caption"]} for row in rows()]
    for row, key in zip(content, keys, strict=True):
        if column == "key":
            row["key"] = key
        elif column == "path":
            row["image"] = {"bytes": row["image"], "path": key}
    dataset = opened(write_parquet(tmp_path / "pairs.parquet", content))
    found = [pair.key for pair in read(dataset)]
    assert found == dataset.keys().to_pylist()
    named = [None] * 24 if column == "none" else keys
    assert found == [key or f"pairs.parquet#{row}" for row, key in enumerate(named)]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("image", ["a.jpg"], "column image is string; images are bytes"),
        ("image", [[b"x"]], "column image is list<.*; images are bytes"),
        ("image", [[[1, 2]]], "column image is list<.*; images are bytes"),
        ("image", [{"path": "a.jpg"}], "column image is struct<path: string>; images are bytes"),
        ("image", [{"bytes": None, "path": "a.jpg"}], "column image is struct<bytes: null"),
        ("image", [{"bytes": "eA=="}], "column image is struct<bytes: string>; images are bytes"),
        ("image", [1], "column image is int64; images are bytes"),
        ("image", [None], "column image is null; images are bytes"),
        ("image", pa.array([None], pa.binary()), "column image holds the bytes of no image"),
        (
            "image",
            pa.array([{"bytes": None}], pa.struct([("bytes", pa.binary())])),
            "column image holds the bytes of no image",
        ),
        ("caption", [1], "column caption is int64; captions are strings, or lists"),
        ("caption", [None], "column caption is null; captions"),
        ("caption", [[1]], "column caption is list<.*; captions"),
        ("caption", [[b"x"]], "column caption is list<.*; captions"),
        ("caption", [{"en": "x"}], "column caption is struct<en: string>; captions"),
        ("key", [1.0], "column key is double; keys are strings or integers"),
        ("key", [["x"]], "column key is list<.*; keys"),
        ("key", [{"id": "x"}], "column key is struct<id: string>; keys"),
        ("key", [None], "column key is null; keys"),
        ("shard", [1.5], "column shard is double; shards are"),
        ("shard", [["x"]], "column shard is list<.*; shards"),
    ],
)
def test_columns_of_other_types_are_refused_by_name(
    tmp_path: Path, column: str, values: list | pa.Array, message: str
):
    content = {"image": [b"x"], "caption": ["x"], "key": ["x"], "shard": ["x"]}
    (tmp_path / "pairs").mkdir()
    pq.write_table(pa.table(content), tmp_path / "pairs" / "a.parquet")
    pq.write_table(pa.table({**content, column: values}), tmp_path / "pairs" / "b.parquet")
    with pytest.raises(DatasetError, match=message) as caught:
        opened(tmp_path / "pairs" / "b.parquet")
    assert "\n" not in str(caught.value)
    if "of no image" not in message:
        with pytest.raises(DatasetError, match=rf"b\.parquet: {message}"):
            opened(tmp_path / "pairs")


def test_a_table_that_is_damaged_or_empty(tmp_path: Path):
    path = write_parquet(tmp_path / "pairs.parquet", rows())
    data = bytearray(path.read_bytes())
    data[100:3000] = bytes(2900)
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"pairs\.parquet is not a readable Parquet file"):
        read(opened(path))
    pq.write_table(pq.read_table(write_parquet(path, rows())).slice(0, 0), path)
    with pytest.raises(DatasetError, match=r"holds no row \(pairs\.parquet\)"):
        opened(path)
