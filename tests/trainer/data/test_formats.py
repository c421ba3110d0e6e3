"""One set of pairs in every format and every spelling of keys joins the same cache."""

import csv
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import xxhash
from caches import commit

from rhocache_schemas.cache import shard_file
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.open import open_pairs

from ..conftest import MadePair, make_pairs
from .test_tables import read

Pairs = dict[str, list[MadePair]]  # by shard
N = 6


def pairs_of(key: Callable[[int, int], str]) -> Pairs:
    pairs: Pairs = {}
    for shard in range(2):
        made = make_pairs(shard)[:N]
        for row, pair in enumerate(made):
            pair.key = key(shard, row)
        pairs[f"{shard:05}.tar"] = made
    return pairs


def unique(shard: int, row: int) -> str:
    """As img2dataset numbers pairs: the shard, and the place in it."""
    return f"{shard:05}{row:04}"


def repeated(shard: int, row: int) -> str:
    """Keys that begin anew in each shard."""
    return f"{row:03}"


def write_cache(folder: Path, pairs: Pairs, spelled: str = "{}") -> Path:
    random = np.random.default_rng(0)
    shards = {}
    for name, made in pairs.items():
        vectors = random.normal(size=(N, 1, 4)).astype(np.float16)
        shards[name] = shard_file.ShardRows(
            keys=[spelled.format(pair.key) for pair in made],
            status=["ok"] * N,
            image=vectors,
            text=vectors,
            similarity=np.ones(N, np.float32),
            image_hash=[xxhash.xxh3_128_digest(pair.image) for pair in made],
            caption_hash=[xxhash.xxh3_128_digest(pair.caption.encode()) for pair in made],
        )
    return commit(folder, shards)


def assert_joined(dataset: Path | str, cache: Path, pairs: Pairs, **data) -> None:
    """Every pair of the dataset has the row that was made from its image, and no other."""
    expected = {
        pair.image: (number * N + row, pair.caption, name)
        for number, (name, made) in enumerate(pairs.items())
        for row, pair in enumerate(made)
    }
    samples = read(open_pairs(Data(dataset=str(dataset), **data), str(cache)))
    assert len(samples) == 2 * N
    for joined in samples:
        pair = joined.pair
        assert (joined.index, pair.caption, pair.shard) == expected.pop(pair.image)


# --- Tars -------------------------------------------------------------------------------------


def by_webdataset(path: Path, pairs: list[MadePair]) -> None:
    with webdataset.TarWriter(str(path)) as writer:
        for pair in pairs:
            writer.write({"__key__": pair.key, "jpg": pair.image, "txt": pair.caption})


def by_tarfile(prefix: str, layout: int, suffix: str = "jpg") -> Callable:
    def write(path: Path, pairs: list[MadePair]) -> None:
        with tarfile.open(path, "w", format=layout) as tar:
            for pair in pairs:
                for name, data in ((suffix, pair.image), ("txt", pair.caption.encode())):
                    info = tarfile.TarInfo(f"{prefix}{pair.key}.{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))

    return write


def by_tar(*arguments: str) -> Callable:
    def write(path: Path, pairs: list[MadePair]) -> None:
        files = write_files(path.parent.with_name("unpacked") / path.stem, pairs)
        values = {"files": str(files), "parent": str(files.parent), "name": files.name}
        given = [argument.format(**values) for argument in arguments]
        subprocess.run(["tar", "--sort=name", "-cf", path, *given], check=True)

    return write


TARS = {
    "webdataset": by_webdataset,
    "tar of .": by_tar("-C", "{files}", "."),
    "tar of a folder": by_tar("-C", "{parent}", "{name}"),
    "tar of an absolute path": by_tar("-P", "{files}"),
    "long names": by_tarfile("long/" * 40, tarfile.PAX_FORMAT),
    "GNU": by_tarfile("./data/", tarfile.GNU_FORMAT, "JPG"),
    "ustar": by_tarfile("/data/", tarfile.USTAR_FORMAT),
    "backslashes": by_tarfile("data\\images\\", tarfile.PAX_FORMAT),
}
SPELLED = ["{}", "./{}", "folder/{}", "/root/v1.0/{}", "data\\{}"]


@pytest.mark.parametrize("write", TARS.values(), ids=TARS)
def test_tars(tmp_path: Path, write: Callable):
    pairs = pairs_of(repeated)
    (tmp_path / "tars").mkdir()
    for name, made in pairs.items():
        write(tmp_path / "tars" / name, made)
    for number, spelled in enumerate(SPELLED):
        cache = write_cache(tmp_path / f"cache{number}", pairs, spelled)
        assert_joined(tmp_path / "tars", cache, pairs)


# --- Folders and tables -----------------------------------------------------------------------


def write_files(folder: Path, pairs: list[MadePair], spelled: str = "{}") -> Path:
    for pair in pairs:
        path = folder / f"{spelled.format(pair.key)}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pair.image)
        path.with_suffix(".txt").write_text(pair.caption)
    return folder


def img2dataset_files(root: Path, pairs: Pairs) -> Path:
    """Its layout ``files``: a folder for each shard, with what it knows of each in Parquet."""
    for name, made in pairs.items():
        folder = write_files(root / Path(name).stem, made)
        metadata = [{"key": pair.key, "url": "x", "caption": pair.caption} for pair in made]
        pq.write_table(pa.Table.from_pylist(metadata), f"{folder}.parquet")
        Path(f"{folder}_stats.json").write_text("{}")
    return root


def flat_files(root: Path, pairs: Pairs) -> Path:
    for made in pairs.values():
        write_files(root / "deep", made)
    return root


def write_csv(path: Path, pairs: Pairs, image: str, **columns: Callable) -> Path:
    """``image`` is how a path is spelled; the files lie under images/v1.0/SHARD/KEY.jpg."""
    lines = []
    for name, made in pairs.items():
        shard = Path(name).stem
        write_files(path.parent / "images" / "v1.0" / shard, made)
        for pair in made:
            place = image.format(root=path.parent, shard=shard, key=pair.key)
            lines.append(
                {"filepath": place, "title": pair.caption}
                | {column: value(name, pair.key) for column, value in columns.items()}
            )
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def write_parquet(path: Path, pairs: Pairs, **columns: Callable) -> Path:
    """Columns beside ``image`` and ``caption`` are made of a pair's shard and key."""
    lines = [
        {"image": pair.image, "caption": pair.caption}
        | {column: value(name, pair.key) for column, value in columns.items()}
        for name, made in pairs.items()
        for pair in made
    ]
    pq.write_table(pa.Table.from_pylist(lines), path, row_group_size=5)
    return path


RELATIVE = "images/v1.0/{shard}/{key}.jpg"
WINDOWS = "images\\v1.0\\{shard}\\{key}.jpg"
ABSOLUTE = "{root}/images/v1.0/{shard}/{key}.jpg"

UNIQUE = {
    "img2dataset's files": lambda t, p: img2dataset_files(t / "files", p),
    "files in one folder": lambda t, p: flat_files(t / "files", p),
    "CSV": lambda t, p: write_csv(t / "p.csv", p, RELATIVE),
    "CSV of absolute paths": lambda t, p: write_csv(t / "p.csv", p, ABSOLUTE),
    "CSV of Windows": lambda t, p: write_csv(t / "p.csv", p, WINDOWS),
    "CSV with keys": lambda t, p: write_csv(t / "p.csv", p, RELATIVE, key=lambda s, k: k),
    "CSV with numbers": lambda t, p: write_csv(t / "p.csv", p, RELATIVE, key=lambda s, k: int(k)),
    "CSV with floats": lambda t, p: write_csv(t / "p.csv", p, RELATIVE, key=lambda s, k: float(k)),
    "key": lambda t, p: write_parquet(t / "p.parquet", p, key=lambda s, k: k),
    "__key__": lambda t, p: write_parquet(t / "p.parquet", p, __key__=lambda s, k: f"./{k}"),
    "numbers": lambda t, p: write_parquet(t / "p.parquet", p, key=lambda s, k: int(k)),
    "file names": lambda t, p: write_parquet(t / "p.parquet", p, key=lambda s, k: f"{k}.seg.png"),
    "URLs": lambda t, p: write_parquet(t / "p.parquet", p, key=lambda s, k: f"s3://b/x/{k}.jpg"),
}


@pytest.mark.parametrize("write", UNIQUE.values(), ids=UNIQUE)
def test_keys_that_are_in_one_shard(tmp_path: Path, write: Callable):
    pairs = pairs_of(unique)
    dataset = write(tmp_path, pairs)
    for number, spelled in enumerate(SPELLED):
        cache = write_cache(tmp_path / f"cache{number}", pairs, spelled)
        assert_joined(dataset, cache, pairs)


def parquet(**columns: Callable) -> Callable:
    return lambda t, p: write_parquet(t / "p.parquet", p, key=lambda s, k: int(k), **columns)


REPEATED = {
    "img2dataset's files": lambda t, p: img2dataset_files(t / "files", p),
    "CSV": lambda t, p: write_csv(t / "p.csv", p, RELATIVE),
    "CSV of Windows": lambda t, p: write_csv(t / "p.csv", p, WINDOWS),
    "a shard's name": parquet(shard=lambda s, k: s),
    "a shard's name without suffix": parquet(shard=lambda s, k: s.removesuffix(".tar")),
    "a shard's number": parquet(shard=lambda s, k: int(s.removesuffix(".tar"))),
    "a shard's URL": parquet(shard=lambda s, k: f"https://host/data/{s}"),
}


@pytest.mark.parametrize("write", REPEATED.values(), ids=REPEATED)
@pytest.mark.parametrize("spelled", ["{}", "./{}"])
def test_keys_that_are_in_several_shards(tmp_path: Path, write: Callable, spelled: str):
    pairs = pairs_of(repeated)
    cache = write_cache(tmp_path / "cache", pairs, spelled)
    assert_joined(write(tmp_path, pairs), cache, pairs)


def test_unicode_forms(tmp_path: Path):
    """Some systems write é as two characters."""
    pairs = pairs_of(lambda shard, row: f"caf\u00e9-{shard}{row}")
    cache = write_cache(tmp_path / "cache", pairs)
    other = pairs_of(lambda shard, row: f"cafe\u0301-{shard}{row}")
    assert_joined(flat_files(tmp_path / "files", other), cache, pairs)


# --- Types of columns -------------------------------------------------------------------------


def as_type(kind: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    return lambda column: column.cast(kind)


def as_list(column: pa.Array) -> pa.Array:
    return pa.array([[None, " ", value, "another"] for value in column.to_pylist()])


def as_struct(column: pa.Array) -> pa.Array:
    return pa.array([{"bytes": value, "path": None} for value in column.to_pylist()])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("image", as_type(pa.large_binary())),
        ("image", as_type(pa.binary_view())),
        ("image", pa.Array.dictionary_encode),
        ("image", as_struct),
        ("caption", as_type(pa.large_string())),
        ("caption", as_type(pa.string_view())),
        ("caption", as_type(pa.binary())),
        ("caption", pa.Array.dictionary_encode),
        ("caption", as_list),
        ("key", as_type(pa.large_string())),
        ("key", as_type(pa.string_view())),
        ("key", as_type(pa.uint16())),
        ("key", pa.Array.dictionary_encode),
        ("shard", as_type(pa.string_view())),
        ("shard", pa.Array.dictionary_encode),
    ],
)
def test_types_of_columns(tmp_path: Path, name: str, change: Callable):
    pairs = pairs_of(repeated)
    path = write_parquet(tmp_path / "p.parquet", pairs, key=lambda s, k: k, shard=lambda s, k: s)
    table = pq.read_table(path)
    column = change(table[name].combine_chunks())
    table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, path)
    assert_joined(path, write_cache(tmp_path / "cache", pairs), pairs)


def test_other_tools_names_of_columns(tmp_path: Path):
    """img2dataset's Parquet, webdataset's by Hugging Face, and its own, where a path is the key."""
    pairs = pairs_of(unique)
    cache = write_cache(tmp_path / "cache", pairs)
    path = write_parquet(tmp_path / "p.parquet", pairs, key=lambda s, k: k)
    table = pq.read_table(path)
    for names in (["jpg", "caption", "key"], ["jpg", "txt", "__key__"]):
        pq.write_table(table.rename_columns(names), path)
        assert_joined(path, cache, pairs)
    images = [
        {"bytes": image, "path": f"{key}.jpg"}
        for image, key in zip(table["image"].to_pylist(), table["key"].to_pylist(), strict=True)
    ]
    pq.write_table(pa.table({"image": images, "text": table["caption"]}), path)
    assert_joined(path, cache, pairs)
