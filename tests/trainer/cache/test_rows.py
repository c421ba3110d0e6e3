"""Copying numbers out of pages, against pyarrow's own reading of the same file."""

import io
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhocache_schemas.cache import shard_file
from rhocache_schemas.errors import CacheCorrupt
from rhocache_trainer.cache import rows as reference_rows
from rhocache_trainer.cache.parquet_pages import OtherLayout, plain_values


def made(
    n: int,
    views: int,
    d: int,
    dtype: str,
    bad: set[int],
    groups: int,
    seed: int,
    captions: int = 1,
) -> bytes:
    """A shard file as a worker writes it, in row groups."""
    random = np.random.default_rng(seed)
    sink = io.BytesIO()
    with shard_file.ShardFileWriter(
        sink, views=views, captions=captions, dimension=d, dtype=np.dtype(dtype)
    ) as writer:
        for part in np.array_split(np.arange(n), groups):
            if len(part):
                writer.write(_rows(part, views, d, dtype, bad, random, captions))
        writer.close("f" * 64, "1" * 64)
    return sink.getvalue()


def _rows(
    part, views: int, d: int, dtype: str, bad: set[int], random, captions: int
) -> shard_file.ShardRows:
    failed = np.array([number in bad for number in part])
    exact = np.dtype("float32" if dtype == "int8" else dtype)  # which the writer rounds
    image = random.normal(size=(len(part), views, d)).astype(exact)
    text = random.normal(size=(len(part), captions, d)).astype(exact)
    image[failed] = text[failed] = np.nan
    return shard_file.ShardRows(
        keys=[f"key {number}" for number in part],
        status=["image_missing" if each else "ok" for each in failed],
        image=image,
        text=text,
        similarity=np.where(failed, np.nan, 0.5).astype(np.float32),
        image_hash=[None if number in bad else bytes([number % 256] * 16) for number in part],
        caption_hash=[bytes(16) for _ in part],
        captions=random.integers(1, captions + 1, len(part)),
    )


@given(
    n=st.integers(1, 90),
    views=st.integers(1, 3),
    d=st.integers(1, 40),
    dtype=st.sampled_from(["float16", "float32", "int8"]),
    bad=st.sets(st.integers(0, 20)),
    groups=st.integers(1, 3),
    seed=st.integers(0, 9),
    captions=st.integers(1, 3),
)
def test_rows_are_those_that_pyarrow_reads(n, views, d, dtype, bad, groups, seed, captions):
    data = made(n, views, d, dtype, bad, groups, seed, captions)
    expected, _ = shard_file.decode(data, "file")
    rows, footer = reference_rows.decode(data, "file", 7)
    assert footer.rows == len(rows) == n
    for name in ("keys", "status", "image_hash", "caption_hash"):
        assert getattr(rows, name) == getattr(expected, name)
    for name in ("image", "text", "similarity", "ok"):
        assert np.array_equal(getattr(rows, name), getattr(expected, name), equal_nan=True)
        assert getattr(rows, name).dtype == getattr(expected, name).dtype
    assert rows.index.tolist() == list(range(7, 7 + n))


def test_a_column_of_many_pages():
    """A page is a mebibyte: 4,000 rows of 512 are eight, and rows may lie across two."""
    data = made(4000, 1, 512, "float32", {5, 3999}, 1, 0)
    expected, _ = shard_file.decode(data, "file")
    rows, _ = reference_rows.decode(data, "file", 0)
    assert np.array_equal(rows.image, expected.image, equal_nan=True)
    assert np.array_equal(rows.text, expected.text, equal_nan=True)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_fast_way_is_the_one_that_is_taken(monkeypatch: pytest.MonkeyPatch, dtype: str):
    monkeypatch.delattr(reference_rows, "_any_rows")
    reference_rows.decode(made(20, 1, 8, dtype, {3}, 2, 0), "file", 0)


@pytest.mark.parametrize(
    "written",
    [
        {"data_page_version": "2.0"},
        {"compression": "zstd"},
        {"use_byte_stream_split": True},
        {"use_dictionary": True},
    ],
)
def test_pages_that_hold_more_than_plain_numbers_are_left_to_pyarrow(written: dict[str, Any]):
    """Pages of another version or encoding, whose bytes would be wrong numbers."""
    sink = io.BytesIO()
    table = pa.table({"list": [[1.0, 2.0], None, [3.0]]})
    plain = {"compression": "none", "use_dictionary": False}
    pq.write_table(table, sink, **plain | written)
    data = sink.getvalue()
    with pytest.raises(OtherLayout, match="not plain"):
        plain_values(data, pq.read_metadata(io.BytesIO(data)), 0, np.dtype("float64"))


@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_damaged_bytes(at: float):
    """No hash is checked here, so a flipped number may pass; nothing else may be raised."""
    data = bytearray(made(50, 1, 16, "float16", set(), 1, 0))
    for offset in range(300):
        place = int(at * len(data)) + offset
        damaged = bytes(data[:place]) + bytes([data[place] ^ 0xFF]) + bytes(data[place + 1 :])
        with suppress(CacheCorrupt):
            reference_rows.decode(damaged, "file", 0)


def test_a_row_that_is_not_finite_is_named():
    with pytest.raises(CacheCorrupt, match="embedding of key key 700 is not finite"):
        reference_rows.decode(_with_nan(1000, 700), "file", 0)


def _with_nan(n: int, row: int) -> bytes:
    rows = _rows(np.arange(n), 1, 8, "float32", {3, 701}, np.random.default_rng(0), 1)
    rows.text[row, 0, 5] = np.nan
    return shard_file.encode(rows, "f" * 64, "1" * 64)
