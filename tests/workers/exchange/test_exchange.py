"""Exports as other tools read them, and imports of what they write."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from caches import commit

from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.rows import ShardRows
from rhocache_schemas.errors import InvalidInput, MissingExtra
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.exchange.export import export
from rhocache_workers.exchange.importing import import_embeddings
from rhocache_workers.maintain.verify import verify

REFERENCE = ReferenceSpec(model="ViT-B-32", pretrained="openai")
UIDS = [f"{number:032x}" for number in (2**127 + 5, 7, 2**64, 3)]


def made(keys: list[str], seed: int, bad: int | None = None) -> ShardRows:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(2, len(keys), 1, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    similarity = (vectors[0] * vectors[1]).sum((1, 2))
    status = ["ok"] * len(keys)
    if bad is not None:
        status[bad] = "image_missing"
        vectors[:, bad], similarity[bad] = np.nan, np.nan
    half = vectors.astype(np.float16)
    hashes: list[bytes | None] = [bytes(16)] * len(keys)
    return ShardRows(keys, status, half[0], half[1], similarity, hashes, hashes)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    shards = {"a/0.tar": made(UIDS[:3], 0, bad=1), "b.tar": made(UIDS[3:], 1)}
    return commit(tmp_path / "cache", shards, reference=REFERENCE)


def usable(cache: str | Path) -> dict[tuple[str, str], tuple[list[float], list[float], float]]:
    """Every ok row by shard and key."""
    found: dict[tuple[str, str], tuple[list[float], list[float], float]] = {}
    reader = CacheReader.open(str(cache))
    for name in reader.index:
        rows, _ = shard_file.decode(reader.shard_bytes(name), name)
        for row in np.flatnonzero(rows.ok).tolist():
            vectors = rows.image[row, 0].tolist(), rows.text[row, 0].tolist()
            found[name, rows.keys[row]] = (*vectors, float(rows.similarity[row]))
    return found


def test_npy_is_clip_retrievals_layout(cache: Path, tmp_path: Path) -> None:
    found = export(str(cache), "npy", str(tmp_path / "out"))
    assert (found.shards, found.ok) == (2, 3)
    expected = usable(cache)
    for number, shard in enumerate(["a/0.tar", "b.tar"]):
        image = np.load(tmp_path / f"out/img_emb/img_emb_{number}.npy")
        text = np.load(tmp_path / f"out/text_emb/text_emb_{number}.npy")
        table = pq.read_table(tmp_path / f"out/metadata/metadata_{number}.parquet").to_pydict()
        for place, key in enumerate(table["image_path"]):
            row = image[place].tolist(), text[place].tolist(), table["similarity"][place]
            assert expected[shard, key] == row


def test_parquet_lists_and_huggingface(cache: Path, tmp_path: Path) -> None:
    export(str(cache), "parquet-lists", str(tmp_path / "lists"))
    export(str(cache), "huggingface", str(tmp_path / "hub"))
    expected = {place: row for place, row in usable(cache).items() if place[0] == "a/0.tar"}
    for file in ("lists/a/0.tar.parquet", "hub/data/train-00000-of-00002.parquet"):
        rows = pq.ParquetFile(tmp_path / file).read().to_pylist()
        found = {
            (row["shard"], row["key"]): (
                row["image_embedding"],
                row["text_embedding"],
                row["similarity"],
            )
            for row in rows
        }
        assert found == expected
    assert "path: data/*.parquet" in (tmp_path / "hub" / "README.md").read_text()


def test_a_folder_for_datasets(cache: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    export(str(cache), "huggingface", str(tmp_path / "hub"))
    loaded = datasets.load_dataset(str(tmp_path / "hub"), split="train",
                                   cache_dir=str(tmp_path / "hf"))  # fmt: skip
    assert len(loaded) == 3


def test_lance(cache: Path, tmp_path: Path) -> None:
    lance = pytest.importorskip("lance")
    export(str(cache), "lance", str(tmp_path / "lance"))
    table = lance.dataset(str(tmp_path / "lance")).to_table()
    assert table.schema.field("image_embedding").type == pa.list_(pa.float16(), 16)
    found = {(row["shard"], row["key"]): row["image_embedding"] for row in table.to_pylist()}
    assert found == {place: row[0] for place, row in usable(cache).items()}


def test_without_lance_it_is_said_what_to_install(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lance", None)
    with pytest.raises(MissingExtra, match=r"rhocache\[workers,lance\]"):
        export(str(cache), "lance", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_datacomp_has_its_names_and_lists_uids(cache: Path, tmp_path: Path) -> None:
    export(str(cache), "datacomp", str(tmp_path / "out"))
    table = pq.ParquetFile(tmp_path / "out" / "00000000.parquet").read().to_pydict()
    arrays = np.load(tmp_path / "out" / "00000000.npz")
    assert table["uid"] == [UIDS[0], UIDS[2]]
    row = usable(cache)["a/0.tar", UIDS[0]]
    told = arrays["b32_img"][0].tolist(), arrays["b32_txt"][0].tolist()
    assert (*told, table["clip_b32_similarity_score"][0]) == row
    uids = np.load(tmp_path / "out" / "uids.npy")
    assert uids.dtype == np.dtype("u8,u8")
    assert [f"{high:016x}{low:016x}" for high, low in uids.tolist()] == sorted([UIDS[0], *UIDS[2:]])


@pytest.mark.parametrize(("format", "back"), [("npy", "clip-retrieval"), ("datacomp", "datacomp")])
def test_what_is_exported_comes_back(cache: Path, tmp_path: Path, format: str, back: str) -> None:
    export(str(cache), format, str(tmp_path / "out"))
    again = str(tmp_path / "again")
    found = import_embeddings(str(tmp_path / "out"), back, again, REFERENCE, logit_scale=100.0)
    assert (found.ok, found.dtype) == (3, "float16")
    assert usable(again) == usable(cache)
    assert verify(again).findings == []
    manifest = CacheReader.open(again).manifest
    assert manifest.fingerprint.weights_sha256 is None
    assert manifest.origin is not None
    assert (manifest.origin.how, manifest.origin.format) == ("imported", back)
    assert manifest.origin.weights_verified is False
    rows, _ = shard_file.decode(CacheReader.open(again).shard_bytes("b.tar"), "b.tar")
    assert rows.image_hash == rows.caption_hash == [None]


def write_parts(folder: Path, keys: list[list[str]], dtype: str = "float32") -> None:
    """clip-retrieval's layout of vectors that are not of length 1."""
    random = np.random.default_rng(0)
    for each in ("img_emb", "text_emb", "metadata"):
        (folder / each).mkdir(parents=True)
    for number, part in enumerate(keys):
        for side in ("img", "text"):
            vectors = 3 * random.normal(size=(len(part), 8))
            np.save(folder / f"{side}_emb/{side}_emb_{number}.npy", vectors.astype(dtype))
        table = pa.table({"image_path": part, "caption": part})
        pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")


def test_rows_go_to_the_tars_that_img2dataset_names(tmp_path: Path) -> None:
    """Whose shards lie across the tables, with a zero vector and a key that comes twice."""
    write_parts(tmp_path / "in", [["000010", "000000", "000001"], ["000011", "000001"]])
    file = tmp_path / "in" / "img_emb" / "img_emb_1.npy"
    vectors = np.load(file)
    vectors[0] = 0
    np.save(file, vectors)
    out = str(tmp_path / "out")
    import_embeddings(str(tmp_path / "in"), "clip-retrieval", out, REFERENCE, shard_digits=5)
    reader = CacheReader.open(out)
    assert list(reader.index) == ["00000.tar", "00001.tar"]
    assert verify(out).findings == []
    first, _ = shard_file.decode(reader.shard_bytes("00000.tar"), "")
    assert (first.keys, first.status) == (
        ["000000", "000001", "000001"], ["ok", "ok", "duplicate_key"],
    )  # fmt: skip
    second, _ = shard_file.decode(reader.shard_bytes("00001.tar"), "")
    assert second.status == ["ok", "non_finite_embedding"]
    exact = np.load(tmp_path / "in" / "img_emb" / "img_emb_0.npy")[0].astype(float)
    np.testing.assert_allclose(second.image[0, 0], exact / np.linalg.norm(exact), atol=1e-6)
    assert manifest_error(out) == 0


def manifest_error(cache: str) -> float:
    rounding = CacheReader.open(cache).manifest.rounding
    assert rounding is not None
    return rounding.similarity.max


def test_rubbish_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    write_parts(tmp_path / "in", [["a", "b"]])
    image = tmp_path / "in" / "img_emb" / "img_emb_0.npy"
    whole = image.read_bytes()
    for damage, told in (
        (whole[: len(whole) // 2], "holds no readable array"),
        (b"", "holds no readable array"),
    ):
        image.write_bytes(damage)
        with pytest.raises(InvalidInput, match=told):
            run(tmp_path)
    np.save(image, np.zeros((3, 8), np.float32))
    with pytest.raises(InvalidInput, match="has 2 rows, but its image embeddings are"):
        run(tmp_path)
    image.write_bytes(whole)
    with pytest.raises(InvalidInput, match="has no column uid"):
        run(tmp_path, key_column="uid")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"has no metadata/metadata_\*\.parquet"):
        run(tmp_path, "empty")
    with pytest.raises(InvalidInput, match="'tsv' is not one of clip-retrieval, datacomp"):
        import_embeddings(str(tmp_path / "in"), "tsv", str(tmp_path / "out"), REFERENCE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "in"]


def run(tmp_path: Path, folder: str = "in", key_column: str | None = None) -> None:
    import_embeddings(
        str(tmp_path / folder),
        "clip-retrieval",
        str(tmp_path / "out"),
        REFERENCE,
        key_column=key_column,
    )


def test_an_export_is_new_and_of_a_known_format(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'tsv' is not one of npy, parquet-lists"):
        export(str(cache), "tsv", str(tmp_path / "out"))
    with pytest.raises(InvalidInput, match="cache is there already"):
        export(str(cache), "npy", str(cache))
    (tmp_path / "cache" / "shards" / "b.tar.parquet").write_bytes(b"PAR1")
    with pytest.raises(Exception, match=r"b\.tar\.parquet"):
        export(str(cache), "npy", str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
