"""The pairs of the small dataset in Parquet, in a CSV and in a folder, joined with a cache."""

from pathlib import Path

import numpy as np
import pytest
from made_pairs import (
    PAIRS,
    N,
    make_pairs,
    rows,
    write_csv,
    write_folder,
    write_parquet,
    write_tar,
)

from rhocache_schemas.errors import (
    CacheIncomplete,
    DatasetError,
    InvalidInput,
    MissingPair,
    PairMismatch,
    RowError,
)
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.join import JoinedPair, PairSource
from rhocache_trainer.data.open import open_pairs

from ..conftest import unit_rows, write_cache
from .test_loader import make


def opened(dataset: Path, cache: Path | None = None, **data) -> PairSource:
    return open_pairs(Data(dataset=str(dataset), **data), None if cache is None else str(cache))


def read(pairs: PairSource) -> list[JoinedPair]:
    return [pairs.load(joined) for shard in pairs.shards for joined in pairs.read(shard)]


def assert_joined(samples: list[JoinedPair], content: list[dict]) -> None:
    assert len(samples) == len(content)
    for joined, row in zip(samples, content, strict=True):
        pair, reference = joined.pair, joined.row
        shard = int(row["shard"].partition(".")[0])
        place = int(row["key"])
        assert (pair.image, pair.caption) == (row["image"], row["caption"])
        assert (pair.shard, joined.index) == (row["shard"], shard * PAIRS + place)
        assert reference is not None
        assert np.array_equal(reference.image[0], unit_rows(shard, "image")[place])
        assert np.array_equal(reference.text[0], unit_rows(shard, "text")[place])


def test_a_parquet_file_is_joined_by_shard_and_key(tmp_path: Path, cache: Path):
    path = write_parquet(tmp_path / "pairs.parquet", rows())
    for location in (path, f"file://{path}"):
        pairs = open_pairs(Data(dataset=str(location)), str(cache))
        assert [shard.rows for shard in pairs.shards] == [N]
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


def test_the_same_batches_from_another_format(tmp_path: Path, dataset: Path, cache: Path):
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
    assert (pairs.usable, sum(shard.rows or 0 for shard in pairs.shards)) == (N, N + 2)


def test_another_dataset(tmp_path: Path, cache: Path):
    content = [{**row, "key": "other"} for row in rows()]
    path = write_parquet(tmp_path / "pairs.parquet", content)
    for on_missing in ("error", "skip"):
        with pytest.raises(CacheIncomplete, match="is this another dataset"):
            opened(path, cache, on_missing=on_missing)


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
    for joined in pairs.read(pairs.shards[0]):
        with pytest.raises(RowError, match="key 000") as caught:
            pairs.load(joined)
        codes.append(caught.value.code)
    assert codes == ["text_missing", "text_not_utf8", "text_missing"]
    table = tmp_path / "pairs.csv"
    table.write_text("filepath,title\nfiles/none.jpg,x\nfiles/0000.jpg,\n")
    pairs = opened(table)
    for joined, code in zip(pairs.read(pairs.shards[0]), ["image", "text"], strict=True):
        with pytest.raises(RowError) as caught:
            pairs.load(joined)
        assert caught.value.code == f"{code}_missing"


def test_a_parquet_file_without_keys_has_no_rows_in_a_cache(tmp_path: Path, cache: Path):
    content = [{"image": row["image"], "caption": row["caption"]} for row in rows()]
    path = write_parquet(tmp_path / "pairs.parquet", content)
    with pytest.raises(CacheIncomplete, match=r"no usable row .* such as key pairs\.parquet#0: "):
        opened(path, cache)


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
