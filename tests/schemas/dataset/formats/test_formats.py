"""Every format gives the same pairs, and a dataset is seen to be of one of them."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from made_pairs import (
    PAIRS,
    SHARDS,
    N,
    make_pairs,
    rows,
    write_csv,
    write_folder,
    write_parquet,
    write_tar,
)

from rhocache_schemas.dataset.formats import AUTO, FORMATS, find_kind, open_dataset
from rhocache_schemas.dataset.formats.base import Format, KeyedFormat
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import DatasetError, RhocacheError


def opened(dataset: Path | str, kind: str = AUTO, **source) -> Format:
    return open_dataset(Source(dataset=str(dataset), **source), kind)


def read(dataset: Format) -> list[Pair]:
    return [dataset.load(pair) for shard in dataset.shards for pair in dataset.read(shard)]


def tars(folder: Path) -> Path:
    for shard in range(SHARDS):
        write_tar(folder / f"{shard:05}.tar", make_pairs(shard))
    return folder


def files(folder: Path) -> Path:
    for shard in range(SHARDS):
        write_folder(folder / f"{shard:05}", make_pairs(shard))
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "webdataset": tars,
    "parquet": lambda folder: write_parquet(folder / "pairs.parquet", rows()),
    "csv": lambda folder: write_csv(folder / "pairs.csv", rows()),
    "folder": files,
}


def test_every_format_is_tested():
    assert WRITERS.keys() == FORMATS.keys()


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_pairs(tmp_path: Path, kind: str):
    dataset = opened(WRITERS[kind](tmp_path / "dataset"))
    assert type(dataset) is FORMATS[kind]
    pairs = read(dataset)
    assert [pair.error for pair in pairs] == [None] * N
    made = sorted((row["image"], row["caption"]) for row in rows())
    assert sorted((pair.image, pair.caption) for pair in pairs) == made
    assert len({(pair.shard, pair.row) for pair in pairs}) == N


@pytest.mark.parametrize("kind", WRITERS)
def test_a_shard_is_read_from_anywhere_in_a_copy_too(tmp_path: Path, kind: str):
    dataset = opened(WRITERS[kind](tmp_path / "dataset"))
    copy = pickle.loads(pickle.dumps(dataset))
    for shard in dataset.shards:
        whole = list(dataset.read(shard))
        assert [pair.row for pair in whole] == list(range(len(whole)))
        assert {pair.shard for pair in whole} == {shard.name}
        assert shard.rows in (None, len(whole))
        for start in (0, 2, len(whole)):
            assert list(copy.read(shard, start)) == whole[start:]


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "webdataset"])
def test_keys_are_known_before_the_pairs_are_read(tmp_path: Path, kind: str):
    dataset = opened(WRITERS[kind](tmp_path / "dataset"))
    assert isinstance(dataset, KeyedFormat)
    assert dataset.keys().to_pylist() == [pair.key for pair in read(dataset)]
    shards = dataset.cache_shards()
    told = None if kind == "folder" else [row["shard"] for row in rows()]
    assert (None if shards is None else shards.to_pylist()) == told


@pytest.mark.parametrize(
    ("name", "kind", "source", "message"),
    [
        ("none.parquet", AUTO, {}, r"cannot read .*none\.parquet"),
        ("empty", "folder", {}, "holds no image"),
        ("empty", "parquet", {}, r"holds no \.parquet file"),
        ("nowhere", "folder", {}, "there is no folder"),
        ("nowhere/at/all", "parquet", {}, "there is no folder"),
        ("loop/x", "folder", {}, "[Ss]ymlink loop|there is no folder|cannot look at"),
        ("n" * 300, AUTO, {}, "File name too long"),
        ("n" * 300, "folder", {}, "File name too long|there is no folder"),
        ("bad.csv/x", "parquet", {}, "there is no folder"),
        ("bad.parquet", AUTO, {}, "not a readable Parquet file"),
        ("bad.csv", AUTO, {}, "not a readable CSV"),
        ("pairs.parquet", AUTO, {"key_column": "id"}, "has no column id; it has image, caption"),
        (
            "pairs.parquet",
            AUTO,
            {"caption_field": "colour"},
            "caption_field=colour is of tars and folders",
        ),
    ],
)
def test_wrong_places(tmp_path: Path, name: str, kind: str, source: dict, message: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "bad.csv").write_text("filepath,title\nx\n")
    write_parquet(tmp_path / "pairs.parquet", rows())
    with pytest.raises(RhocacheError, match=message):
        opened(tmp_path / name, kind, **source)


def test_tars_are_told_from_files(tmp_path: Path):
    dataset = tars(tmp_path / "tars")
    write_tar(tmp_path / "mixed" / "0.tar", make_pairs(0))
    write_folder(tmp_path / "mixed", make_pairs(0)[:2])
    for location in (dataset, dataset / "00000.tar", f"{dataset}/{{00000..00001}}.tar"):
        assert opened(location).shards[0].name == "00000.tar"
    assert len(read(opened(tmp_path / "mixed"))) == PAIRS
    assert len(read(opened(tmp_path / "mixed", "folder"))) == 2


def test_what_is_told_from_what(tmp_path: Path):
    """Hidden files are of no kind; tables beside a tar, or a folder, of their name tell of it."""
    dataset = tars(tmp_path / "tars")
    parquet = write_parquet(tmp_path / "tables" / "0.parquet", rows()).read_bytes()
    for folder in (tmp_path / "tables", dataset, write_folder(tmp_path / "files", make_pairs(0))):
        for name in ("._0.jpg", ".x.jpg", "__MACOSX/1.tar", "._00000.tar", ".Trash-1/0.parquet"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x")
    (dataset / "00000.parquet").write_bytes(parquet)
    assert len(read(opened(tmp_path / "tables"))) == N
    assert len(read(opened(dataset))) == N
    assert len(read(opened(tmp_path / "files"))) == PAIRS
    (tmp_path / "files" / "other.parquet").write_bytes(parquet)
    both = r"parquet \(other\.parquet\), folder \(0000\.jpg\): .*format .*, parquet or folder"
    with pytest.raises(DatasetError, match=both):
        opened(tmp_path / "files")
    assert len(read(opened(tmp_path / "files", "folder"))) == PAIRS
    assert len(read(opened(tmp_path / "files", "parquet"))) == N
    (tmp_path / "tables" / "0.parquet").rename(tmp_path / "tables" / "0.PARQUET")
    for location in (tmp_path / "tables", tmp_path / "tables" / "0.PARQUET"):
        assert len(read(opened(location))) == N


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("s3://bucket/pairs.PQ", "parquet"),
        ("/data/pairs.tsv", "csv"),
        ("/data/{00..99}.tar", "webdataset"),
        ("/data/not-there", "webdataset"),
    ],
)
def test_a_suffix_tells_the_kind_without_a_look(location: str, kind: str):
    assert find_kind(location) == kind


@pytest.mark.parametrize("suffix", ["jpg", "jfif"])
def test_names_are_told_where_no_pair_is_usable(tmp_path: Path, suffix: str):
    write_tar(tmp_path / "tars" / "0.tar", make_pairs(0)[:3], (suffix, "caption"))
    told = opened(tmp_path / "tars").describe()
    assert f"{suffix} 3" in told
    assert "0000.caption" in told
    told = opened(tmp_path / "tars", caption_field="alt").describe()
    assert "the field alt of KEY.json" in told
    assert "colour (str)" in told or suffix == "jfif"
    folder = tmp_path / "files"
    folder.mkdir()
    for pair in make_pairs(0)[:3]:
        (folder / f"{pair.key}.{suffix}").write_bytes(pair.image)
        (folder / f"{pair.key}.caption").write_text(pair.caption)
    with pytest.raises(DatasetError, match=rf"0000\.caption.*{suffix} 3.*KEY\.txt"):
        opened(folder, "folder")
