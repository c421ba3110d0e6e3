"""The pairs of the small dataset in other containers: Parquet, CSV and a folder of files."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rhocache_schemas.errors import (
    CacheIncomplete,
    DatasetError,
    InvalidInput,
    MissingPair,
    PairMismatch,
    RhocacheError,
    RowError,
)
from rhocache_trainer.config import Data
from rhocache_trainer.data.join import PairSource, Sample
from rhocache_trainer.data.open import open_pairs

from ..conftest import PAIRS, SHARDS, MadePair, make_pairs, unit_rows, write_cache, write_tar
from .test_loader import make

N = SHARDS * PAIRS


def rows() -> list[dict[str, str | bytes]]:
    """Every pair of the dataset, in another order than that of its shards.

    The keys of conftest's shards are the same in both, so that a shard column is needed.
    """
    made = [
        {"image": p.image, "caption": p.caption, "key": p.key, "shard": f"{shard:05}.tar"}
        for shard in range(SHARDS)
        for p in make_pairs(shard)
    ]
    return [made[number] for number in np.random.default_rng(0).permutation(N)]


def write_parquet(path: Path, content: list[dict], group: int = 5) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(content), path, row_group_size=group)
    return path


def write_csv(path: Path, content: list[dict], delimiter: str = ",") -> Path:
    """With the images beside it, under names that say nothing."""
    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, row in enumerate(content):
        name = f"images/{number}.jpg"
        (path.parent / name).write_bytes(row["image"])
        lines.append({**row, "image": name})
    names = {"image": "filepath", "caption": "title"}
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow([names.get(name, name) for name in lines[0]])
        writer.writerows([list(line.values()) for line in lines])
    return path


def write_folder(folder: Path, pairs: list[MadePair]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        (folder / f"{pair.key}.jpg").write_bytes(pair.image)
        (folder / f"{pair.key}.txt").write_text(pair.caption)
    return folder


def opened(dataset: Path, cache: Path | None = None, **data) -> PairSource:
    return open_pairs(Data(dataset=str(dataset), **data), None if cache is None else str(cache))


def read(pairs: PairSource) -> list[Sample]:
    return [pending() for part in pairs.parts for pending in pairs.read(part)]


def assert_joined(samples: list[Sample], content: list[dict]) -> None:
    assert len(samples) == len(content)
    for sample, row in zip(samples, content, strict=True):
        shard = int(row["shard"].partition(".")[0])
        place = int(row["key"])
        assert (sample.image, sample.caption) == (row["image"], row["caption"])
        assert (sample.shard, sample.index) == (row["shard"], shard * PAIRS + place)
        assert np.array_equal(np.asarray(sample.reference_image), unit_rows(shard, "image")[place])
        assert np.array_equal(np.asarray(sample.reference_text), unit_rows(shard, "text")[place])


def test_a_parquet_file_is_joined_by_shard_and_key(tmp_path: Path, cache: Path):
    path = write_parquet(tmp_path / "pairs.parquet", rows())
    for location in (path, f"file://{path}"):
        pairs = open_pairs(Data(dataset=str(location)), str(cache))
        assert [part.rows for part in pairs.parts] == [5, 5, 5, 5, 4]
        assert (pairs.n, pairs.usable) == (N, N)
        assert_joined(read(pairs), rows())


def test_a_folder_of_parquet_files_and_other_names_of_columns(tmp_path: Path, cache: Path):
    """As Hugging Face datasets have it: an image is a struct of bytes and path."""
    content = [
        {"picture": {"bytes": row["image"], "path": "x"}, "text": row["caption"]}
        | {"id": row["key"], "tar": row["shard"]}
        for row in rows()
    ]
    write_parquet(tmp_path / "pairs" / "a.parquet", content[:9])
    write_parquet(tmp_path / "pairs" / "b.parquet", content[9:])
    columns = {
        "image_column": "picture",
        "caption_column": "text",
        "key_column": "id",
        "shard_column": "tar",
    }
    assert_joined(read(opened(tmp_path / "pairs", cache, **columns)), rows())
    assert_joined(read(opened(tmp_path / "pairs", cache, shards="b*", **columns)), rows()[9:])


@pytest.mark.parametrize(("name", "delimiter"), [("p.csv", ","), ("p.tsv", "\t"), ("t.csv", "\t")])
def test_a_csv_is_joined_by_shard_and_key(tmp_path: Path, cache: Path, name, delimiter):
    path = write_csv(tmp_path / "table" / name, rows(), delimiter)
    assert_joined(read(opened(path, cache)), rows())


def test_a_key_alone_where_it_is_in_one_shard(tmp_path: Path, dataset: Path):
    """A folder, and a CSV of its files: a key is a file's name."""
    cache = write_cache(tmp_path / "cache", {(1, row): "text_missing" for row in range(3, PAIRS)})
    some = [{**row, "shard": "00000.tar"} for row in rows() if row["shard"] == "00000.tar"]
    only = [row for row in some if int(row["key"]) >= 3]
    folder = write_folder(tmp_path / "files" / "deep", make_pairs(0)[3:])
    pairs = opened(folder.parent, cache)
    assert_joined(read(pairs), sorted(only, key=lambda row: row["key"]))
    table = tmp_path / "table.csv"
    lines = [f"files/deep/{row['key']}.jpg,{row['caption']}" for row in only]
    table.write_text("\n".join(["filepath,title", *lines]))
    assert_joined(read(opened(table, cache)), only)
    absolute = [f"{tmp_path}/{line}" for line in lines]
    table.write_text("\n".join(["filepath,title", *absolute]))
    assert_joined(read(opened(table, cache)), only)


def test_a_key_in_several_shards(tmp_path: Path, cache: Path):
    content = [{k: v for k, v in row.items() if k != "shard"} for row in rows()]
    path = write_parquet(tmp_path / "pairs.parquet", content)
    with pytest.raises(InvalidInput, match=r"key 00\d\d in several shards.*data\.shard_column"):
        opened(path, cache)


def test_the_same_batches_from_another_container(tmp_path: Path, dataset: Path, cache: Path):
    """A pair is augmented alike wherever it is read from."""
    path = write_parquet(tmp_path / "pairs.parquet", rows())
    by_index = []
    for location in (dataset, path):
        batches = [batch for batch, _ in zip(make(location, cache), range(N // 2), strict=False)]
        images = {}
        for batch in batches:
            images |= dict(zip(batch.index.tolist(), batch.image, strict=True))
        by_index.append(images)
    assert by_index[0].keys() == by_index[1].keys() == set(range(N))
    assert all(by_index[0][index].equal(by_index[1][index]) for index in range(N))


@pytest.mark.parametrize("workers", [0, 2])
def test_tables_resume_to_the_bit(tmp_path: Path, cache: Path, workers: int):
    path = write_csv(tmp_path / "table" / "pairs.csv", rows())
    loader = make(path, cache, workers=workers)
    stream = iter(loader)
    for _ in range(3):
        next(stream)
    state = loader.state_dict()
    expected = [next(stream) for _ in range(N // 2)]
    resumed = make(path, cache, workers=workers)
    resumed.load_state_dict(state)
    for one, other in zip(expected, resumed, strict=False):
        assert one.index.equal(other.index)
        assert one.image.equal(other.image)
        assert one.reference_text.equal(other.reference_text)


def test_without_a_cache_keys_are_not_needed(tmp_path: Path):
    content = [{"image": row["image"], "caption": row["caption"]} for row in rows()]
    pairs = opened(write_parquet(tmp_path / "pairs.parquet", content))
    assert [sample.index for sample in read(pairs)] == list(range(N))
    assert pairs.n == pairs.usable == N


def test_a_changed_pair_is_found_by_its_hashes(tmp_path: Path, cache: Path):
    content = rows()
    content[3]["caption"] = "another"
    for path in (
        write_parquet(tmp_path / "pairs.parquet", content),
        write_csv(tmp_path / "table" / "pairs.csv", content),
    ):
        with pytest.raises(PairMismatch, match="the caption is not the one"):
            read(opened(path, cache))


def test_a_pair_without_a_row_is_known_before_anything_is_read(tmp_path: Path):
    cache = write_cache(tmp_path / "cache", {(1, 4): "image_undecodable"})
    path = write_parquet(tmp_path / "pairs.parquet", [*rows(), {**rows()[0], "key": "new"}])
    with pytest.raises(MissingPair, match=rf"no usable row for 2 of {N + 1} pairs: 0004, new"):
        opened(path, cache)
    assert opened(path, cache, on_missing="skip").usable == N - 1


def test_a_pair_that_comes_twice(tmp_path: Path, cache: Path):
    path = write_parquet(tmp_path / "pairs.parquet", [*rows(), rows()[4], rows()[0]])
    with pytest.raises(InvalidInput, match=f"2 pairs .*such as {rows()[4]['key']!s}; a batch"):
        opened(path, cache)
    pairs = opened(path, cache, on_missing="skip")
    assert (pairs.usable, sum(part.rows or 0 for part in pairs.parts)) == (N, N + 2)


def test_another_dataset(tmp_path: Path, cache: Path):
    content = [{**row, "key": "other"} for row in rows()]
    path = write_parquet(tmp_path / "pairs.parquet", content)
    for on_missing in ("error", "skip"):
        with pytest.raises(CacheIncomplete, match="is this another dataset"):
            opened(path, cache, on_missing=on_missing)


@pytest.mark.parametrize(
    "path", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg", "s3://bucket/x.jpg"]
)
def test_a_csv_names_no_image_outside_its_folder(tmp_path: Path, path: str):
    table = tmp_path / "pairs.csv"
    table.write_text(f"filepath,title\nimages/fine.jpg,fine\n{path},x\n")
    with pytest.raises(DatasetError, match=r"lies outside .*data\.images") as caught:
        opened(table)
    assert path in str(caught.value)


def test_an_image_folder_of_its_own(tmp_path: Path, cache: Path):
    path = write_csv(tmp_path / "table" / "pairs.csv", rows())
    other = tmp_path / "pairs.csv"
    path.rename(other)
    assert_joined(read(opened(other, cache, images=str(tmp_path / "table"))), rows())


def test_files_that_are_not_what_they_should_be(tmp_path: Path):
    folder = write_folder(tmp_path / "files", make_pairs(0)[:3])
    (folder / "0000.txt").unlink()
    (folder / "0001.txt").write_bytes(b"\xff")
    (folder / "0002.txt").write_text(" \n")
    codes = []
    pairs = opened(folder)
    for pending in pairs.read(pairs.parts[0]):
        with pytest.raises(RowError, match="key 000") as caught:
            pending()
        codes.append(caught.value.code)
    assert codes == ["text_missing", "text_not_utf8", "text_missing"]
    table = tmp_path / "pairs.csv"
    table.write_text("filepath,title\nfiles/none.jpg,x\nfiles/0000.jpg,\n")
    pairs = opened(table)
    for pending, code in zip(pairs.read(pairs.parts[0]), ["image", "text"], strict=True):
        with pytest.raises(RowError) as caught:
            pending()
        assert caught.value.code == f"{code}_missing"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none.parquet", {}, r"cannot read .*none\.parquet"),
        ("empty", {"kind": "folder"}, "holds no image"),
        ("empty", {"kind": "parquet"}, r"holds no \.parquet file"),
        ("nowhere", {"kind": "folder"}, "there is no folder"),
        ("bad.parquet", {}, "not a readable Parquet file"),
        ("bad.csv", {}, "not a readable CSV"),
        ("pairs.parquet", {"key_column": "id"}, "has no column id; it has image, caption"),
        ("pairs.parquet", {"caption_field": "colour"}, "caption_field=colour is a field of tar"),
    ],
)
def test_wrong_places(tmp_path: Path, name: str, options: dict, message: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "bad.csv").write_text("filepath,title\nx\n")
    write_parquet(tmp_path / "pairs.parquet", rows())
    with pytest.raises(RhocacheError, match=message):
        opened(tmp_path / name, **options)


def test_a_parquet_file_without_keys_has_no_rows_in_a_cache(tmp_path: Path, cache: Path):
    content = [{"image": row["image"], "caption": row["caption"]} for row in rows()]
    path = write_parquet(tmp_path / "pairs.parquet", content)
    with pytest.raises(DatasetError, match=r"no column key.*data\.key_column"):
        opened(path, cache)


def test_tars_are_told_from_files(tmp_path: Path, dataset: Path):
    write_tar(tmp_path / "mixed" / "0.tar", make_pairs(0))
    write_folder(tmp_path / "mixed", make_pairs(0)[:2])
    for location in (dataset, dataset / "00000.tar", f"{dataset}/{{00000..00001}}.tar"):
        assert opened(Path(location)).parts[0].name == "00000.tar"
    assert opened(tmp_path / "mixed").n == PAIRS
    assert opened(tmp_path / "mixed", kind="folder").n == 2


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


def test_what_is_told_from_what(tmp_path: Path, dataset: Path, cache: Path):
    """Hidden files are of no kind; tables beside a tar, or a folder, of their name tell of it."""
    parquet = write_parquet(tmp_path / "tables" / "0.parquet", rows()).read_bytes()
    for folder in (tmp_path / "tables", dataset, write_folder(tmp_path / "files", make_pairs(0))):
        for name in ("._0.jpg", ".x.jpg", "__MACOSX/1.tar", "._00000.tar", ".Trash-1/0.parquet"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x")
    (dataset / "00000.parquet").write_bytes(parquet)
    assert opened(tmp_path / "tables").n == N
    assert len(read(opened(dataset, cache))) == N
    assert opened(tmp_path / "files").n == PAIRS
    (tmp_path / "files" / "other.parquet").write_bytes(parquet)
    with pytest.raises(DatasetError, match=r"both Parquet, such as other\.parquet, .* data\.kind"):
        opened(tmp_path / "files")
    assert opened(tmp_path / "files", kind="folder").n == PAIRS
    assert opened(tmp_path / "files", kind="parquet").n == N
    (tmp_path / "tables" / "0.parquet").rename(tmp_path / "tables" / "0.PARQUET")
    assert opened(tmp_path / "tables").n == opened(tmp_path / "tables" / "0.PARQUET").n == N


def test_captions_from_a_field_in_a_folder(tmp_path: Path):
    folder = write_folder(tmp_path / "files", make_pairs(0)[:2])
    (folder / "0000.json").write_text('{"alt": ["", "first", "second"]}')
    (folder / "0001.json").write_text('{"other": "x"}')
    pairs = opened(folder, caption_field="alt")
    first, second = pairs.read(pairs.parts[0])
    assert first().caption == "first"
    with pytest.raises(RowError, match="no caption"):
        second()


@pytest.mark.parametrize("suffix", ["jpg", "jfif"])
def test_names_are_told_where_no_pair_is_usable(tmp_path: Path, suffix: str):
    image, caption = f"{suffix} 3", "caption 3"
    write_tar(tmp_path / "tars" / "0.tar", make_pairs(0)[:3], (suffix, "caption"))
    folder = tmp_path / "files"
    folder.mkdir()
    for pair in make_pairs(0)[:3]:
        (folder / f"{pair.key}.{suffix}").write_bytes(pair.image)
        (folder / f"{pair.key}.caption").write_text(pair.caption)
    for dataset, kind in ((tmp_path / "tars", "webdataset"), (folder, "folder")):
        with pytest.raises(DatasetError, match=rf"0000\.caption.*{caption}.*KEY\.txt") as caught:
            opened(dataset, kind=kind)
        assert image in str(caught.value)
    with pytest.raises(DatasetError, match=r"the field alt of KEY\.json") as caught:
        opened(tmp_path / "tars", caption_field="alt")
    assert "colour (str)" in str(caught.value) or suffix == "jfif"
