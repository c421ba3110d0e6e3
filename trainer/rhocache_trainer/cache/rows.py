"""The rows of a cache's shard, as columns, and how they are read from its file."""

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.shard_file import OK, Footer, read_vectors
from rhocache_schemas.errors import CacheCorrupt
from rhocache_trainer.cache.parquet_pages import OtherLayout, plain_values

_SMALL = ["key", "status", "similarity", "image_hash", "caption_hash"]
_CODED = ["image_embeddings", "image_scales", "text_embeddings", "text_scales"]
_CHUNK = 256  # rows that stay in a core's cache while they are checked


@dataclass(frozen=True, slots=True)
class ReferenceRows:
    """Rows of a cache as columns: V views and C captions a pair, embeddings of d numbers.

    Embeddings and similarities of rows that are not ok are NaN, never zeros.
    """

    keys: list[str]
    status: list[str]  # ``ok`` or a RowErrorCode
    image: npt.NDArray[np.floating]  # [n, V, d], unit vectors, half or single precision
    text: npt.NDArray[np.floating]  # [n, C, d]; of a row with c captions k is its caption k mod c
    similarity: npt.NDArray[np.float32]  # [n], cosine of view 0 and caption 0
    ok: npt.NDArray[np.bool_]  # [n]
    image_hash: list[bytes | None]  # see rhocache_schemas.dataset.pair
    caption_hash: list[bytes | None]
    index: npt.NDArray[np.int64]  # [n], the rows' numbers in the whole cache

    def __len__(self) -> int:
        return len(self.keys)


def decode(data: bytes, source: str, first: int) -> tuple[ReferenceRows, Footer]:
    """Read the bytes of a shard file whose first row has the number ``first`` in the cache.

    Raises CacheCorrupt, also for numbers that are not finite, and UnsupportedVersion for a newer
    major version; ``source`` is what the errors call the file.
    """
    footer = shard_file.read_footer(pa.BufferReader(data), source)
    try:
        rows = _plain_rows(data, footer, first)
    except OtherLayout:
        rows = _any_rows(data, source, first)
    except (pa.ArrowException, OSError, LookupError, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable shard file: {error}") from error
    _check_finite(rows, source)
    return rows, footer


def _plain_rows(data: bytes, footer: Footer, first: int) -> ReferenceRows:
    """Rows as ShardFileWriter lays them out, with little more than a copy of each."""
    with pq.ParquetFile(pa.BufferReader(data), read_dictionary=["status"]) as file:
        metadata, schema = file.metadata, file.schema_arrow
        coded = pa.types.is_binary(schema.field("image_embeddings").type)
        table = file.read(_SMALL + (_CODED if coded else []), use_threads=False)
    status = _strings(table["status"])
    ok = np.array([each == OK for each in status], np.bool_)
    image, text = (
        # Codes are bytes, which pyarrow copies as they are.
        read_vectors(table, which, shape).vectors
        if coded
        else _embeddings(data, metadata, schema.field(f"{which}_embeddings").type, which, shape, ok)
        for which, shape in (("image", footer.image_shape), ("text", footer.text_shape))
    )
    return ReferenceRows(
        cast("list[str]", table["key"].to_pylist()),
        status,
        image,
        text,
        table["similarity"].to_numpy(),
        ok,
        _hashes(table["image_hash"]),
        _hashes(table["caption_hash"]),
        np.arange(first, first + len(ok)),
    )


def _any_rows(data: bytes, source: str, first: int) -> ReferenceRows:
    """Rows of a file that another Parquet writer has written anew."""
    rows, footer = shard_file.decode(data, source)
    return ReferenceRows(
        rows.keys,
        rows.status,
        rows.image,
        rows.text,
        rows.similarity,
        rows.ok,
        rows.image_hash,
        rows.caption_hash,
        np.arange(first, first + footer.rows),
    )


def _embeddings(
    data: bytes,
    file: pq.FileMetaData,
    lists: Any,
    which: str,
    shape: tuple[int, ...],
    ok: npt.NDArray[np.bool_],
) -> npt.NDArray[np.floating]:
    if not pa.types.is_list(lists):
        raise OtherLayout(f"embeddings as {lists}")
    path = f"{which}_embeddings.list.element"
    columns = [file.schema.column(number).path for number in range(file.num_columns)]
    dtype = np.dtype(lists.value_type.to_pandas_dtype())
    values = plain_values(data, file, columns.index(path), dtype)
    if len(values) != ok.sum() * math.prod(shape):
        raise OtherLayout("rows of fewer captions than others")
    values = values.reshape(int(ok.sum()), *shape)
    if ok.all():
        return values
    every = np.full((len(ok), *shape), np.nan, dtype)
    every[ok] = values
    return every


def _strings(column: Any) -> list[str]:
    """A column of dictionary strings; pyarrow would make each string anew, row by row."""
    found: list[str] = []
    if not pa.types.is_dictionary(column.type):
        raise OtherLayout(f"status as {column.type}")
    for chunk in column.chunks:
        names = chunk.dictionary.to_pylist()
        found += [names[number] for number in chunk.indices.to_numpy().tolist()]
    return found


def _hashes(column: Any) -> list[bytes | None]:
    found: list[bytes | None] = []
    for chunk in column.chunks:
        if chunk.null_count:
            found += chunk.to_pylist()
        else:
            width = chunk.type.byte_width
            hashes = np.frombuffer(
                chunk.buffers()[1], f"V{width}", len(chunk), width * chunk.offset
            )
            found += hashes.tolist()
    return found


def _check_finite(rows: ReferenceRows, source: str) -> None:
    """Refuse numbers that are not finite in a row that is ok, at a small part of hashing's cost."""
    for name, values in (("image", rows.image), ("text", rows.text)):
        signed, unsigned, infinity, minus_infinity = _BITS[values.dtype]
        for start in range(0, len(rows), _CHUNK):
            part = values[start : start + _CHUNK]
            # Bits that are at least infinity's are no finite number, of either sign.
            largest, most_negative = part.view(signed).max(), part.view(unsigned).max()
            if largest < infinity and most_negative < minus_infinity:
                continue
            finite = np.isfinite(part).all(axis=(1, 2))
            wrong = rows.ok[start : start + _CHUNK] & ~finite
            if wrong.any():
                row = start + int(wrong.argmax())
                raise CacheCorrupt(
                    f"{source}: the {name} embedding of key {rows.keys[row]} is not finite, though "
                    "its row says ok; make the cache anew"
                )


_BITS: dict[Any, tuple[type, type, int, int]] = {
    np.dtype(np.float16): (np.int16, np.uint16, 0x7C00, 0xFC00),
    np.dtype(np.float32): (np.int32, np.uint32, 0x7F800000, 0xFF800000),
}
