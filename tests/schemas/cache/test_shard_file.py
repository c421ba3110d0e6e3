import hashlib
import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.shard_file import ShardFileWriter, ShardRows
from rhocache_schemas.cache.vectors import quantise
from rhocache_schemas.errors import CacheCorrupt, UnsupportedVersion


def example(dtype: str = "float16", views: int = 1) -> ShardRows:
    random = np.random.default_rng(0)
    image = random.normal(size=(3, views, 8)).astype(dtype)
    text = random.normal(size=(3, 1, 8)).astype(dtype)
    image[1] = text[1] = np.nan
    return ShardRows(
        keys=["a", "b", "c"],
        status=["ok", "image_missing", "ok"],
        image=image,
        text=text,
        similarity=np.array([0.25, np.nan, -0.5], dtype=np.float32),
        image_hash=[b"1234567812345678", None, b"8765432187654321"],
        caption_hash=[b"abcdefghabcdefgh"] * 3,
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("views", [1, 3])
def test_round_trip(dtype: str, views: int) -> None:
    rows = example("float32" if dtype == "int8" else dtype, views).stored_in(np.dtype(dtype))
    back, footer = shard_file.decode(shard_file.encode(rows, "f" * 64, "5" * 64), "here")
    assert (footer.fingerprint_sha256, footer.source_sha256, footer.rows) == ("f" * 64, "5" * 64, 3)
    assert (back.keys, back.status) == (rows.keys, rows.status)
    assert (back.image_hash, back.caption_hash) == (rows.image_hash, rows.caption_hash)
    for name in ("image", "text", "similarity"):
        np.testing.assert_array_equal(getattr(back, name), getattr(rows, name))
        assert getattr(back, name).dtype == getattr(rows, name).dtype
    assert back.content_sha256() == rows.content_sha256()
    assert back.ok.tolist() == [True, False, True]


def test_a_plain_parquet_reader_sees_the_documented_columns() -> None:
    table = pq.read_table(pa.BufferReader(shard_file.encode(example(), "f", "s")))
    assert table.schema.remove_metadata() == pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("row", pa.int32(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            ("image_embeddings", pa.list_(pa.float16())),
            ("text_embeddings", pa.list_(pa.float16())),
            ("similarity", pa.float32()),
            ("image_hash", pa.binary(16)),
            ("caption_hash", pa.binary(16)),
        ]
    )
    for column in ("image_embeddings", "text_embeddings", "similarity"):
        assert table[column].is_null().to_pylist() == [False, True, False]


def test_equal_rows_give_equal_bytes_and_a_changed_number_another_content() -> None:
    assert shard_file.encode(example(), "f", "s") == shard_file.encode(example(), "f", "s")
    changed = example()
    changed.image[0, 0, 0] += 1
    assert changed.content_sha256() != example().content_sha256()


def test_the_content_hash_is_that_of_the_columns_bytes() -> None:
    """As docs/cache-format.md has it, written out for a row of which nothing is there."""
    rows = example()
    columns = [
        b"a\0b\0c\0",
        b"ok\0image_missing\0ok\0",
        rows.image[0].tobytes() + rows.image[2].tobytes(),
        rows.text[0].tobytes() + rows.text[2].tobytes(),
        np.array([0.25, -0.5], "<f4").tobytes(),
        b"1234567812345678-8765432187654321",
        b"abcdefghabcdefgh" * 3,
    ]
    digests = "".join(hashlib.sha256(column).hexdigest() for column in columns)
    expected = hashlib.sha256(f"((1, 8), (1, 8)){digests}".encode()).hexdigest()
    assert rows.content_sha256() == expected


def test_how_the_columns_are_stored() -> None:
    """Embeddings as they are: to encode or compress them costs time and saves nothing."""
    data = shard_file.encode(example(), "f", "s")
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    group = metadata.row_group(0)
    columns = [group.column(at) for at in range(group.num_columns)]
    assert {column.compression for column in columns} == {"UNCOMPRESSED"}
    assert {column.path_in_schema for column in columns if column.has_dictionary_page} == {"status"}
    assert b"ARROW:schema" not in (metadata.metadata or {})


def test_a_file_that_is_given_up_takes_no_footer() -> None:
    sink = io.BytesIO()
    writer = ShardFileWriter(sink, views=1, captions=1, dimension=8, dtype=np.dtype(np.float16))
    writer.write(example())
    written = sink.getvalue()
    with pytest.raises(KeyboardInterrupt), writer:
        raise KeyboardInterrupt
    del writer
    assert written
    assert sink.getvalue() == written


def test_an_empty_shard() -> None:
    none = np.zeros((0, 1, 8), dtype=np.float16)
    rows = ShardRows([], [], none, none, np.zeros(0, dtype=np.float32), [], [])
    back, footer = shard_file.decode(shard_file.encode(rows, "f", "s"), "here")
    assert footer.rows == 0
    assert back.image.shape == (0, 1, 8)


def test_what_is_not_a_shard_file_is_refused() -> None:
    data = shard_file.encode(example(), "f", "s")
    with pytest.raises(CacheCorrupt, match="here is not a readable shard file"):
        shard_file.decode(data[:-10], "here")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"key": ["a"]}), sink)
    with pytest.raises(CacheCorrupt, match="but not one of rhocache's"):
        shard_file.decode(sink.getvalue().to_pybytes(), "here")


@pytest.mark.parametrize("groups", [0, 1, 3])
def test_a_file_is_summed_up_by_row_groups(groups: int) -> None:
    sink = io.BytesIO()
    with ShardFileWriter(
        sink, views=1, captions=1, dimension=8, dtype=np.dtype(np.float16)
    ) as writer:
        for _ in range(groups):
            writer.write(example())
        told = writer.close("f", "s")
    totals, footer = shard_file.sum_up(sink.getvalue(), "here")
    assert totals == told
    assert (footer.fingerprint_sha256, footer.source_sha256) == ("f", "s")
    rows, _ = shard_file.decode(sink.getvalue(), "here")
    assert (totals.rows, totals.failed_by_code) == (
        3 * groups,
        Counter(rows.status) - Counter(ok=99),
    )
    assert totals.content_sha256 == rows.content_sha256()
    assert totals.file_sha256 == hashlib.sha256(sink.getvalue()).hexdigest()
    with pytest.raises(CacheCorrupt, match="here is not a readable shard file"):
        shard_file.sum_up(sink.getvalue()[:-10], "here")


def test_a_newer_format_is_refused() -> None:
    data = shard_file.encode(example(), "f", "s").replace(b"2.0", b"3.0")
    with pytest.raises(UnsupportedVersion, match=r"format version 3\.0; .* up to 2\.0"):
        shard_file.decode(data, "here")


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_row_may_have_fewer_captions_than_another(dtype: str) -> None:
    random = np.random.default_rng(1)
    text = random.normal(size=(4, 3, 8)).astype(np.float32)
    own = [3, 1, 2, 3]
    for row, count in enumerate(own):
        text[row] = text[row, np.arange(3) % count]
    rows = ShardRows(
        keys=list("abcd"),
        status=["ok", "ok", "ok", "image_missing"],
        image=random.normal(size=(4, 2, 8)).astype(np.float32),
        text=text,
        similarity=np.array([0.5, 0.25, 1.0, np.nan], np.float32),
        image_hash=[bytes(16)] * 4,
        caption_hash=[bytes(16)] * 4,
        captions=np.array(own),
    ).stored_in(np.dtype(dtype))
    data = shard_file.encode(rows, "f", "s")
    back, footer = shard_file.decode(data, "here")
    assert footer.text_shape == (3, 8)
    assert back.captions is not None
    assert back.captions[:3].tolist() == own[:3]
    np.testing.assert_array_equal(back.text[:3], rows.text[:3])
    np.testing.assert_array_equal(back.image[:3], rows.image[:3])
    assert np.isnan(back.text[3]).all()
    assert back.content_sha256() == footer.content_sha256 == rows.content_sha256()
    bytes_of_rows = pq.ParquetFile(pa.BufferReader(data)).read(["text_embeddings"])
    numbers = [each and len(each) for each in bytes_of_rows.to_pydict()["text_embeddings"]]
    assert numbers == [24, 8, 16, None]
    other = replace(rows, captions=np.array([3, 2, 2, 3]))  # the same numbers, cut otherwise
    assert other.content_sha256() != rows.content_sha256()


def test_codes_keep_a_vectors_length_and_its_direction_within_half_a_step() -> None:
    random = np.random.default_rng(2)
    vectors = random.normal(size=(200, 2, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors[0] = np.nan
    codes = quantise(vectors)
    back = codes.vectors()
    assert np.isnan(back[0]).all()
    np.testing.assert_allclose(np.linalg.norm(back[1:], axis=-1), 1, rtol=1e-6)
    assert (np.abs(codes.codes[1:]).max(-1) == 127).all()
    steps = np.abs(vectors[1:]).max(-1, keepdims=True) / 127
    assert (np.abs(codes.codes[1:] * steps - vectors[1:]) <= 0.5001 * steps).all()
    np.testing.assert_array_equal(quantise(np.zeros((1, 1, 4))).vectors(), np.zeros((1, 1, 4)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_what_rounding_changes_is_measured_on_the_first_rows(dtype: str) -> None:
    random = np.random.default_rng(3)
    exact = random.normal(size=(2, 20, 1, 16)).astype(np.float32)
    exact /= np.linalg.norm(exact, axis=-1, keepdims=True)
    exact[:, 3] = np.nan
    rows = ShardRows(
        keys=[str(row) for row in range(20)],
        status=["text_missing" if row == 3 else "ok" for row in range(20)],
        image=exact[0],
        text=exact[1],
        similarity=(exact[0] * exact[1]).sum((1, 2)),
        image_hash=[bytes(16)] * 20,
        caption_hash=[bytes(16)] * 20,
    )
    sink = io.BytesIO()
    with shard_file.writer_like(rows, sink, np.dtype(dtype)) as writer:
        writer.write(rows)
        told = writer.close("f", "s").summary
    totals, footer = shard_file.sum_up(sink.getvalue(), "here")
    assert totals.summary == told
    assert footer.rounding == told.rounding
    back, _ = shard_file.decode(sink.getvalue(), "here")
    errors = [
        abs(float(np.dot(rows.image[i, 0].astype(float), rows.text[j, 0].astype(float)))
            - float(np.dot(back.image[i, 0].astype(float), back.text[j, 0].astype(float))))
        for i in range(20) for j in range(20) if 3 not in (i, j)
    ]  # fmt: skip
    assert told.rounding is not None
    assert told.rounding.pairs == 19 * 19
    for found, expected in (
        (told.rounding.mean, np.mean(errors)),
        (told.rounding.p99, np.quantile(errors, 0.99)),
        (told.rounding.max, max(errors)),
    ):
        assert found == pytest.approx(expected, rel=1e-3)
    assert (told.rounding.max > 0) == (dtype != "float32")
