"""Reading a cache that was written column by column in conftest.py."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from caches import flip_index

from rhocache_schemas.errors import (
    CacheCorrupt,
    CacheIncomplete,
    CacheNotFound,
    FingerprintMismatch,
    InvalidInput,
    MissingPair,
    UnsupportedVersion,
)
from rhocache_trainer import ReferenceCache

from ..conftest import DIMENSION, PAIRS, SHARDS, make_pairs, unit_rows, write_cache


def test_a_shard_comes_as_it_was_written(cache: Path):
    opened = ReferenceCache.open(str(cache))
    assert len(opened) == SHARDS * PAIRS
    rows = opened.shard("00001.tar")
    assert rows.keys == [pair.key for pair in make_pairs(1)]
    assert rows.image.shape == (PAIRS, 1, DIMENSION)
    assert np.array_equal(rows.image[:, 0], unit_rows(1, "image"))
    assert np.array_equal(rows.text[:, 0], unit_rows(1, "text"))
    assert rows.ok.all()
    assert rows.index.tolist() == list(range(PAIRS, 2 * PAIRS))


def test_a_uri_will_do(cache: Path):
    assert len(ReferenceCache.open(f"file://{cache}").shard("00000.tar")) == PAIRS


def test_lookup_in_any_order(cache: Path):
    wanted = [("00001.tar", "0003"), ("00000.tar", "0007"), ("00001.tar", "0003")]
    rows = ReferenceCache.open(str(cache)).lookup(wanted)
    assert rows.keys == ["0003", "0007", "0003"]
    assert rows.index.tolist() == [PAIRS + 3, 7, PAIRS + 3]
    expected = [unit_rows(1, "text")[3], unit_rows(0, "text")[7], unit_rows(1, "text")[3]]
    assert np.array_equal(rows.text[:, 0], np.stack(expected))
    assert rows.similarity.shape == (3,)


def test_lookup_names_what_is_missing(cache: Path):
    wanted = [("00000.tar", "0000"), ("00000.tar", "nope"), ("00007.tar", "0001")]
    with pytest.raises(MissingPair, match=r"2 of 3 pairs.*00000\.tar/nope, 00007\.tar/0001"):
        ReferenceCache.open(str(cache)).lookup(wanted)
    with pytest.raises(InvalidInput):
        ReferenceCache.open(str(cache)).lookup([])


def test_failed_rows_are_marked_and_never_zero(tmp_path: Path):
    folder = write_cache(tmp_path / "cache", {(0, 2): "image_undecodable"})
    rows = ReferenceCache.open(str(folder)).lookup([("00000.tar", "0002"), ("00000.tar", "0003")])
    assert rows.ok.tolist() == [False, True]
    assert rows.status == ["image_undecodable", "ok"]
    assert np.isnan(rows.image[0]).all()
    assert np.isnan(rows.text[0]).all()


def test_the_first_of_a_repeated_key_is_the_pair(tmp_path: Path):
    folder = write_cache(tmp_path / "cache", {(0, 5): "duplicate_key"})
    rows = ReferenceCache.open(str(folder)).lookup([("00000.tar", "0000")])
    assert rows.ok.tolist() == [True]
    assert rows.index.tolist() == [0]


def test_a_bounded_memory_gives_the_same_rows(cache: Path):
    opened = ReferenceCache.open(str(cache), kept_bytes=0)
    for shard in (0, 1, 0, 1):
        assert np.array_equal(
            opened.shard(f"{shard:05}.tar").image[:, 0], unit_rows(shard, "image")
        )
        assert len(opened._kept) == 1


def test_nothing_there(tmp_path: Path):
    with pytest.raises(CacheNotFound, match="no cache at"):
        ReferenceCache.open(str(tmp_path))


def test_a_cache_without_its_commit_point(cache: Path):
    (cache / "manifest.json").unlink()
    (cache / "plan.json").write_text("{}")
    with pytest.raises(CacheIncomplete, match=r"no manifest\.json"):
        ReferenceCache.open(str(cache))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_in_the_index(cache: Path):
    with pytest.raises(CacheCorrupt, match=flip_index(cache)):
        ReferenceCache.open(str(cache))


def test_a_missing_index(cache: Path):
    (cache / "index.parquet").unlink()
    with pytest.raises(CacheIncomplete, match=r"index\.parquet"):
        ReferenceCache.open(str(cache))


def test_a_flipped_byte_in_a_shard(cache: Path):
    _flip(cache / "shards" / "00001.tar.parquet")
    opened = ReferenceCache.open(str(cache))
    opened.shard("00000.tar")
    with pytest.raises(CacheCorrupt, match=r"00001\.tar\.parquet"):
        opened.shard("00001.tar")


def test_a_missing_shard_file(cache: Path):
    (cache / "shards" / "00001.tar.parquet").unlink()
    with pytest.raises(CacheIncomplete, match=r"00001\.tar\.parquet"):
        ReferenceCache.open(str(cache)).shard("00001.tar")


def test_a_shard_that_the_cache_never_had(cache: Path):
    opened = ReferenceCache.open(str(cache))
    with pytest.raises(CacheIncomplete, match="made from the dataset; is this another dataset"):
        opened.shard("00007.tar")
    with pytest.raises(CacheIncomplete, match=r"could not be read.*tar_truncated"):
        opened.shard("00009.tar")


def test_a_shard_of_another_reference(cache: Path, tmp_path: Path):
    """Its bytes agree with the index, but its footer names another fingerprint."""
    path = cache / "shards" / "00000.tar.parquet"
    table = pq.read_table(path)
    other = {**pq.read_metadata(path).metadata, b"rhocache.fingerprint_sha256": b"f" * 64}
    pq.write_table(table.replace_schema_metadata(other), path)
    entries = pq.read_table(cache / "index.parquet").to_pylist()
    entries[0]["file_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    schema = pq.read_schema(cache / "index.parquet")
    pq.write_table(pa.Table.from_pylist(entries, schema=schema), cache / "index.parquet")
    manifest = json.loads((cache / "manifest.json").read_text())
    index = (cache / "index.parquet").read_bytes()
    manifest["index_sha256"] = hashlib.sha256(index).hexdigest()
    (cache / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FingerprintMismatch, match="another reference"):
        ReferenceCache.open(str(cache)).shard("00000.tar")


def commit_anew(cache: Path, **changes) -> None:
    """Make the index and the manifest agree with the shard files that are there."""
    entries = pq.read_table(cache / "index.parquet").to_pylist()
    for entry in entries:
        data = (cache / "shards" / f"{entry['name']}.parquet").read_bytes()
        entry |= {"file_sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    schema = pq.read_schema(cache / "index.parquet")
    pq.write_table(pa.Table.from_pylist(entries, schema=schema), cache / "index.parquet")
    manifest = json.loads((cache / "manifest.json").read_text()) | changes
    manifest["index_sha256"] = hashlib.sha256((cache / "index.parquet").read_bytes()).hexdigest()
    (cache / "manifest.json").write_text(json.dumps(manifest))


def rewrite(path: Path, which: str, value: float | None = None, **metadata: bytes) -> None:
    """Write a shard file anew by another Parquet writer: compressed, one value or key changed."""
    table = pq.read_table(path)
    if value is not None:
        column = table[which].combine_chunks()
        numbers = column.values.to_numpy().copy()
        numbers[3 * DIMENSION + 1] = value
        changed = pa.ListArray.from_arrays(column.offsets, pa.array(numbers))
        table = table.set_column(table.column_names.index(which), table.field(which), changed)
    kept = pq.read_metadata(path).metadata
    more = {f"rhocache.{name}".encode(): value for name, value in metadata.items()}
    pq.write_table(table.replace_schema_metadata({**kept, **more}), path)


def test_a_manifest_of_a_newer_format(cache: Path):
    commit_anew(cache, format_version="3.0")
    with pytest.raises(UnsupportedVersion, match=r"manifest\.json has format version 3\.0"):
        ReferenceCache.open(str(cache))


def test_a_shard_file_of_a_newer_format(cache: Path):
    rewrite(cache / "shards" / "00001.tar.parquet", "", format_version=b"3.0")
    commit_anew(cache)
    opened = ReferenceCache.open(str(cache))
    with pytest.raises(UnsupportedVersion, match=r"00001\.tar\.parquet has format version 3\.0"):
        opened.shard("00001.tar")


def test_an_index_that_the_manifest_does_not_count(cache: Path):
    commit_anew(cache, rows=SHARDS * PAIRS + 1)
    with pytest.raises(CacheCorrupt, match=r"names 25 rows, index\.parquet 24"):
        ReferenceCache.open(str(cache))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["image", "text"])
def test_numbers_that_are_not_finite(cache: Path, value: float, which: str):
    path = cache / "shards" / "00001.tar.parquet"
    rewrite(path, f"{which}_embeddings", value)
    commit_anew(cache)
    with pytest.raises(CacheCorrupt, match=rf"the {which} embedding of key 0003 is not finite"):
        ReferenceCache.open(str(cache)).shard("00001.tar")


def test_a_file_of_another_parquet_writer_has_the_same_rows(cache: Path):
    expected = ReferenceCache.open(str(cache)).shard("00001.tar")
    rewrite(cache / "shards" / "00001.tar.parquet", "")
    commit_anew(cache)
    rows = ReferenceCache.open(str(cache)).shard("00001.tar")
    for name in ("keys", "status", "image_hash", "caption_hash"):
        assert getattr(rows, name) == getattr(expected, name)
    for name in ("image", "text", "similarity", "ok", "index"):
        assert np.array_equal(getattr(rows, name), getattr(expected, name))


def test_a_single_row_and_where_it_is(cache: Path):
    opened = ReferenceCache.open(str(cache))
    for index in range(SHARDS * PAIRS):
        shard, position = opened.locate(index)
        assert (int(shard.partition(".")[0]), position) == divmod(index, PAIRS)
        row = opened.row(shard, position)
        assert (row.index, row.key, row.status) == (index, f"{position:04}", "ok")
        assert np.array_equal(row.image[0], unit_rows(index // PAIRS, "image")[position])


def test_a_copy_for_another_process_leaves_what_was_read_behind(cache: Path):
    opened = ReferenceCache.open(str(cache))
    opened.shard("00000.tar")
    copy = pickle.loads(pickle.dumps(opened))
    assert not copy._kept
    assert np.array_equal(copy.shard("00000.tar").image, opened.shard("00000.tar").image)
