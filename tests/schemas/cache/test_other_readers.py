"""The snippets of docs/reading-shards.md, on a cache with a pair that failed."""

import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars
import pytest

from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.shard_file import ShardRows

DOCUMENT = Path(__file__).parents[3] / "docs" / "reading-shards.md"
SECTIONS = dict(re.findall(r"## (\w+)\n\n```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL))


@pytest.fixture(params=["float16", "float32"])
def rows(tmp_path: Path, request: pytest.FixtureRequest) -> ShardRows:
    random = np.random.default_rng(0)
    image, text = (random.normal(size=(5, 1, 16)).astype(request.param) for _ in range(2))
    for vectors in (image, text):
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    image[2] = text[2] = np.nan
    rows = ShardRows(
        keys=list("abcde"),
        status=["ok", "ok", "image_missing", "ok", "ok"],
        image=image,
        text=text,
        similarity=(image.astype("float32") * text).sum((1, 2)).astype("float32"),
        image_hash=[
            b"1234567812345678",
            b"1234567812345678",
            None,
            b"1234567812345678",
            b"1234567812345678",
        ],
        caption_hash=[b"abcdefghabcdefgh"] * 5,
    )
    folder = tmp_path / "caches" / "offline" / "shards"
    folder.mkdir(parents=True)
    (folder / "00000.tar.parquet").write_bytes(shard_file.encode(rows, "f" * 64, "5" * 64))
    return rows


def run(section: str, tmp_path: Path) -> dict[str, Any]:
    code = SECTIONS[section].replace("caches/offline", str(tmp_path / "caches" / "offline"))
    if section == "DuckDB":
        code = code.replace("duckdb.sql(", "found = duckdb.sql(").replace("[512]", "[16]")
    names: dict[str, Any] = {}
    exec(code, names)  # of our own document
    return names


@pytest.mark.parametrize("section", ["Polars", "pandas", "PyArrow"])
def test_embeddings_come_out_exactly(rows: ShardRows, tmp_path: Path, section: str) -> None:
    images = run(section, tmp_path)["images"]
    assert images.dtype == rows.image.dtype
    np.testing.assert_array_equal(images, rows.image[rows.ok][:, 0])


def test_datasets(rows: ShardRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hub"))
    images = np.stack(run("datasets", tmp_path)["pairs"]["image_embeddings"])
    np.testing.assert_array_equal(images, rows.image[rows.ok][:, 0])


def test_int8_is_read_as_its_bytes_times_their_scales(rows: ShardRows, tmp_path: Path) -> None:
    coded = rows.stored_in(np.dtype(np.int8))
    file = tmp_path / "caches" / "offline" / "shards" / "00000.tar.parquet"
    file.write_bytes(shard_file.encode(coded, "f" * 64, "5" * 64))
    images = run("int8", tmp_path)["images"]
    np.testing.assert_array_equal(images, coded.image[rows.ok][:, 0])


def test_duckdb(rows: ShardRows, tmp_path: Path) -> None:
    found = run("DuckDB", tmp_path)["found"].fetchall()
    assert [key for key, _, _ in found] == [
        rows.keys[i] for i in np.argsort(rows.similarity) if rows.ok[i]
    ]
    for _, similarity, rounded in found:
        assert rounded == pytest.approx(similarity, abs=2e-3)


def test_what_each_makes_of_the_columns(rows: ShardRows, tmp_path: Path) -> None:
    path = str(tmp_path / "caches" / "offline" / "shards" / "00000.tar.parquet")
    half = rows.image.dtype == np.float16
    number = polars.Float16 if half else polars.Float32
    schema = polars.read_parquet_schema(path)
    assert schema["image_embeddings"] == polars.List(number)
    assert schema["status"] == polars.String
    kinds = {name: kind for name, kind, *_ in duckdb.sql(f"describe from '{path}'").fetchall()}
    assert kinds == {
        "key": "VARCHAR",
        "row": "INTEGER",
        "status": "VARCHAR",
        "image_embeddings": "FLOAT[]",
        "text_embeddings": "FLOAT[]",
        "similarity": "FLOAT",
        "image_hash": "BLOB",
        "caption_hash": "BLOB",
    }
