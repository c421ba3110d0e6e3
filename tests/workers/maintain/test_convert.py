"""Converting and merging caches."""

from pathlib import Path

import numpy as np
import pytest
from caches import commit

from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.rows import ShardRows
from rhocache_schemas.errors import FingerprintMismatch, InvalidInput
from rhocache_workers.maintain.convert import convert
from rhocache_workers.maintain.inspect import inspect
from rhocache_workers.maintain.merge import merge
from rhocache_workers.maintain.verify import verify

GOLDEN = Path(__file__).parents[2] / "schemas" / "cache"


def made(seed: int, count: int = 30) -> ShardRows:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(2, count, 1, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    status = ["ok"] * count
    status[seed] = "image_missing"
    similarity = (vectors[0] * vectors[1]).sum((1, 2))
    vectors[:, seed], similarity[seed] = np.nan, np.nan
    half = vectors.astype(np.float16)
    hashes: list[bytes | None] = [bytes([seed]) * 16] * count
    return ShardRows([f"{seed} {n}" for n in range(count)], status, half[0], half[1],
                     similarity, hashes, hashes)  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return commit(tmp_path / "cache", {"a/0.tar": made(0), "1.tar": made(1)})


def rows_of(cache: str | Path, shard: str) -> ShardRows:
    return shard_file.decode(CacheReader.open(str(cache)).shard_bytes(shard), shard)[0]


@pytest.mark.parametrize("dtype", ["int8", "float32", "float16"])
def test_a_converted_cache_states_its_error_and_where_it_is_from(
    cache: Path, tmp_path: Path, dtype: str
) -> None:
    out = str(tmp_path / "out")
    found = convert(str(cache), dtype, out)  # pyright: ignore[reportArgumentType]
    assert (found.shards, found.rows, found.ok, found.notes) == (2, 60, 58, [])
    assert verify(out).findings == []
    manifest = CacheReader.open(out).manifest
    assert manifest.fingerprint.made_from == "cache"
    assert manifest.origin is not None
    assert (manifest.origin.how, manifest.origin.sources) == ("converted", [str(cache)])
    errors: list[np.ndarray] = []
    for shard in ("a/0.tar", "1.tar"):
        before, after = rows_of(cache, shard), rows_of(out, shard)
        for name in ("keys", "status", "image_hash", "caption_hash"):
            assert getattr(after, name) == getattr(before, name)
        np.testing.assert_array_equal(after.similarity, before.similarity)
        exact, stored = (
            rows.image[rows.ok, 0].astype(float) @ rows.text[rows.ok, 0].astype(float).T
            for rows in (before, after)
        )
        errors.append(np.abs(exact - stored))
    assert manifest.rounding is not None
    every = np.concatenate([each.ravel() for each in errors])
    assert manifest.rounding.pairs == len(every)
    assert manifest.rounding.similarity.mean == pytest.approx(every.mean(), rel=1e-3)
    assert manifest.rounding.similarity.max == pytest.approx(every.max(), rel=1e-3)
    assert (every.max() > 0) == (dtype == "int8")
    assert inspect(out).rounding == manifest.rounding.model_dump()
    assert manifest.total_rounding is None  # the source states none


def test_format_1_becomes_format_2_with_hashes_as_they_are(tmp_path: Path) -> None:
    golden, out = str(GOLDEN / "golden-1"), str(tmp_path / "out")
    found = convert(golden, "float16", out)
    assert "64 bits" in found.notes[0]
    assert verify(out).findings == []
    manifest = CacheReader.open(out).manifest
    assert (manifest.format_version, manifest.failed_shards) == (
        "2.0", {"00002.tar": "tar_truncated"},
    )  # fmt: skip
    before, after = rows_of(golden, "00000.tar"), rows_of(out, "00000.tar")
    np.testing.assert_array_equal(before.image, after.image)
    assert before.image_hash == after.image_hash


def test_views_and_captions_are_kept(tmp_path: Path) -> None:
    golden, out = str(GOLDEN / "golden-2"), str(tmp_path / "out")
    convert(golden, "float32", out)
    before, after = rows_of(golden, "00000.tar"), rows_of(out, "00000.tar")
    np.testing.assert_array_equal(before.text, after.text)
    np.testing.assert_array_equal(before.captions, after.captions)
    assert convert(out, "int8", str(tmp_path / "twice")).dtype == "int8"
    total = CacheReader.open(str(tmp_path / "twice")).manifest.total_rounding
    assert total is not None  # golden's own, and int8's


def test_nothing_is_overwritten_nor_left_half_written(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(InvalidInput, match=r"out is there already"):
        convert(str(cache), "int8", str(out))
    (cache / "shards" / "1.tar.parquet").write_bytes(b"PAR1")
    with pytest.raises(Exception, match=r"1\.tar\.parquet"):
        convert(str(cache), "int8", str(tmp_path / "other"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]
    assert (out / "mine").read_text() == "kept"


def test_caches_of_one_reference_are_merged(tmp_path: Path) -> None:
    caches = [
        str(commit(tmp_path / "a", {"0.tar": made(0)}, failed_shards={"1.tar": "io_error"})),
        str(commit(tmp_path / "b", {"1.tar": made(1), "2.tar": made(2)})),
    ]
    out = str(tmp_path / "out")
    found = merge(caches, out)
    assert (found.shards, found.rows, found.ok) == (3, 90, 87)
    assert verify(out).findings == []
    manifest = CacheReader.open(out).manifest
    assert manifest.failed_shards == {}
    assert manifest.failed_by_code == {"image_missing": 3}
    assert manifest.origin is not None
    assert (manifest.origin.how, manifest.origin.sources) == ("merged", caches)
    for name, cache in (("0.tar", caches[0]), ("2.tar", caches[1])):
        file = f"shards/{name}.parquet"
        assert Path(out, file).read_bytes() == Path(cache, file).read_bytes()
    with pytest.raises(InvalidInput, match=r"shard 1\.tar is in .*b and in .*out"):
        merge([caches[1], out], str(tmp_path / "twice"))


def test_other_caches_are_not_merged(cache: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(InvalidInput, match="two on, not 1"):
        merge([str(cache)], out)
    with pytest.raises(FingerprintMismatch, match=r"format 1\.0.*rhocache convert"):
        merge([str(GOLDEN / "golden-1")] * 2, out)
    with pytest.raises(FingerprintMismatch, match=r"differing: .*weights_sha256"):
        merge([str(cache), str(GOLDEN / "golden-2")], out)
    assert not Path(out).exists()
