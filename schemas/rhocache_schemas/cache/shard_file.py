"""The Parquet file that holds the reference's embeddings of one shard's pairs."""

# pyarrow's stubs leave the parameters of its generic types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import hashlib
import io
import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rhocache_schemas import storage
from rhocache_schemas.cache import vectors
from rhocache_schemas.cache.rows import OK, ContentDigest, ShardRows
from rhocache_schemas.cache.summary import (
    NOTHING_ROUNDED,
    ShardRounding,
    ShardSummary,
    ShardSummer,
    measure,
)
from rhocache_schemas.cache.vectors import Codes
from rhocache_schemas.dataset.pair import HASH_BYTES
from rhocache_schemas.documents import CACHE_FORMAT, check_version
from rhocache_schemas.errors import CacheCorrupt

# Files are read with ``use_threads=False``: one of Arrow's threads may let go of the bytes, which
# are Python's, after the read has returned; if the interpreter ends just then, the process aborts.

FAILED_ROW = ["row", "key", "status"]  # the columns that a FailedRow is made of

_FINGERPRINT = b"rhocache.fingerprint_sha256"
_SOURCE = b"rhocache.source_sha256"
_VERSION = b"rhocache.format_version"
_IMAGE_SHAPE = b"rhocache.image_shape"
_TEXT_SHAPE = b"rhocache.text_shape"
_CONTENT = b"rhocache.content_sha256"
_ROUNDING = b"rhocache.rounding"  # JSON; not there where it was not measured
_MEASURED = 256  # rows of a shard whose similarities are compared with those before rounding

_KEYS = {_FINGERPRINT, _SOURCE, _VERSION, _IMAGE_SHAPE, _TEXT_SHAPE, _CONTENT}


@dataclass(frozen=True, slots=True)
class Totals:
    """What a shard file comes to."""

    rows: int
    failed_by_code: Counter[str]
    size: int  # bytes
    content_sha256: str
    file_sha256: str
    summary: ShardSummary


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that has no embeddings: its pair could not be used."""

    row: int  # position in its shard
    key: str
    code: str  # a RowErrorCode


@dataclass(frozen=True, slots=True)
class Footer:
    """What a shard file says of its own origin."""

    fingerprint_sha256: str
    source_sha256: str  # of the dataset shard
    rows: int
    image_shape: tuple[int, ...]  # of a row's embeddings: views, dimension
    text_shape: tuple[int, ...]  # captions, dimension
    content_sha256: str  # of the rows, as ContentDigest has it
    rounding: ShardRounding | None  # None where it was not measured


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of a shard file that lie together."""

    start: int  # number of the first
    rows: ShardRows
    footer: Footer  # of the file

    @property
    def stop(self) -> int:
        return self.start + len(self.rows.keys)


def schema(dtype: np.dtype[Any], hash_bytes: int) -> pa.Schema:
    coded, hashes = dtype == np.int8, pa.binary(hash_bytes)
    embeddings = pa.binary() if coded else pa.list_(pa.from_numpy_dtype(dtype))
    scales = pa.list_(pa.float32())
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("row", pa.int32(), nullable=False),
            pa.field("status", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("image_embeddings", embeddings),
            pa.field("text_embeddings", embeddings),
            pa.field("similarity", pa.float32()),
            pa.field("image_hash", hashes),
            pa.field("caption_hash", hashes),
            *([pa.field("image_scales", scales), pa.field("text_scales", scales)] if coded else []),
        ]
    )


@dataclass(frozen=True, slots=True)
class Before:
    """What of a row group's rows comes out of other shard files, as it is stored there."""

    rows: npt.NDArray[np.bool_]  # [n], which
    roundings: set[ShardRounding | None]  # that those files state


class Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


class ShardFileWriter:
    """Writes a shard file a row group at a time: equal rows, groups and footer, equal bytes.

    The embeddings are stored in ``dtype``: float16, float32 or int8. Of rows in single precision it
    is measured what that changes. A context manager, so that a file that is given up takes no
    footer.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        views: int,
        captions: int,
        dimension: int,
        dtype: np.dtype[Any],
        hash_bytes: int = HASH_BYTES,
    ) -> None:
        self._sink = _HashingSink(sink)
        self._dtype = dtype
        self._hash = pa.binary(hash_bytes)
        self._shapes = {
            _IMAGE_SHAPE: f"{views}x{dimension}",
            _TEXT_SHAPE: f"{captions}x{dimension}",
        }
        self._schema = schema(dtype, hash_bytes)
        self._content = ContentDigest()
        self._summer = ShardSummer()
        self._rounding: ShardRounding | None = None
        self._before: set[ShardRounding | None] = set()  # of rows that were stored before
        self.reused = 0  # such rows
        self._failed = Counter[str]()
        self._rows = 0
        # Unit vectors neither repeat nor compress: pyarrow's defaults make them 5x slower to read.
        # Columns are Parquet's own types alone, which more readers know than know Arrow's tensors.
        self._writer = pq.ParquetWriter(
            cast("Any", self._sink),
            self._schema,
            use_dictionary=["status"],  # pyright: ignore[reportArgumentType]
            compression="none",
            store_schema=False,
        )
        image, text = (np.empty((0, each, dimension), np.float32) for each in (views, captions))
        rows = ShardRows([], [], image, text, np.empty(0, np.float32), [], [])
        self._content.update(rows.stored_in(dtype))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sink.given_up = True
        self._writer.close()

    def write(self, rows: ShardRows, before: Before | None = None) -> None:
        """Add a row group, of which some rows may have been stored ``before``."""
        exact, rows = rows, rows.stored_in(self._dtype)
        ok = rows.ok
        if before is not None:
            self._before |= before.roundings
            self.reused += int(before.rows.sum())
            self._measure(exact, rows, ok & ~before.rows)
        elif exact.image.dtype == np.float32 and exact.codes is None:
            self._measure(exact, rows, ok)
        numbers = np.arange(self._rows, self._rows + len(rows.keys), dtype=np.int32)
        columns = [
            pa.array(rows.keys, pa.string()),
            pa.array(numbers),
            pa.array(rows.status).dictionary_encode(),
            *_embeddings(rows),
            pa.array(rows.similarity, mask=~ok),
            pa.array(rows.image_hash, self._hash),
            pa.array(rows.caption_hash, self._hash),
            *_scales(rows),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._content.update(rows)
        self._summer.update(rows.similarity[ok])
        self._failed.update(status for status in rows.status if status != OK)
        self._rows += len(rows.keys)

    def _measure(self, exact: ShardRows, stored: ShardRows, ok: npt.NDArray[np.bool_]) -> None:
        """Of the first rows that there are: of many the errors are alike, and cost the more."""
        if self._rounding in (None, NOTHING_ROUNDED):
            some = np.flatnonzero(ok)[:_MEASURED]
            sides = ((rows.image[some, 0], rows.text[some, 0]) for rows in (exact, stored))
            self._rounding = measure(*sides)

    def close(self, fingerprint_sha256: str, source_sha256: str) -> Totals:
        """Write the footer. The sink stays open."""
        content_sha256 = self._content.hexdigest()
        rounding = _coarsest({self._rounding if self._rows else NOTHING_ROUNDED, *self._before})
        metadata: Any = {
            _VERSION: CACHE_FORMAT,
            _FINGERPRINT: fingerprint_sha256,
            _SOURCE: source_sha256,
            _CONTENT: content_sha256,
            **self._shapes,
        }
        if rounding is not None:
            metadata[_ROUNDING] = json.dumps(asdict(rounding))
        self._writer.add_key_value_metadata(metadata)
        self._writer.close()
        return Totals(
            rows=self._rows,
            failed_by_code=self._failed,
            size=self._sink.position,
            content_sha256=content_sha256,
            file_sha256=self._sink.sha256.hexdigest(),
            summary=self._summer.summary(rounding),
        )


def encode(rows: ShardRows, fingerprint_sha256: str, source_sha256: str) -> bytes:
    """Return the bytes of a shard file of one row group, with hashes as wide as the rows'."""
    sink = io.BytesIO()
    writer = writer_like(rows, sink, np.dtype(np.int8) if rows.codes else rows.image.dtype)
    writer.write(rows)
    writer.close(fingerprint_sha256, source_sha256)
    return sink.getvalue()


def writer_like(rows: ShardRows, sink: Sink, dtype: np.dtype[Any]) -> ShardFileWriter:
    """Return a writer of rows of such shapes and hashes, which are stored in ``dtype``."""
    _, views, dimension = rows.image.shape
    hashes = (each for each in (*rows.image_hash, *rows.caption_hash) if each is not None)
    return ShardFileWriter(
        sink,
        views=views,
        captions=rows.text.shape[1],
        dimension=dimension,
        dtype=dtype,
        hash_bytes=len(next(hashes, bytes(HASH_BYTES))),
    )


def decode(data: bytes, source: str) -> tuple[ShardRows, Footer]:
    """Read the bytes of a shard file; ``source`` is what the errors call it.

    Raises CacheCorrupt, or UnsupportedVersion for a newer major version.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            table = file.read(use_threads=False)
            footer = _footer(file.metadata, source)
        rows = _rows(table, footer)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable shard file: {error}") from error
    return rows, footer


def sum_up(data: bytes, source: str) -> tuple[Totals, Footer]:
    """Return the totals and the footer of a shard file, read a row group at a time.

    Raises CacheCorrupt, also where its rows are not those of the hash in its own footer, or
    UnsupportedVersion for a newer major version.
    """
    content, summer, failed = ContentDigest(), ShardSummer(), Counter[str]()
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            footer = _footer(file.metadata, source)
            content.update(_rows(file.schema_arrow.empty_table(), footer))
            for group in range(file.num_row_groups):
                rows = _rows(file.read_row_group(group, use_threads=False), footer)
                content.update(rows)
                summer.update(rows.similarity[rows.ok])
                failed.update(status for status in rows.status if status != OK)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable shard file: {error}") from error
    if content.hexdigest() != footer.content_sha256:
        raise CacheCorrupt(f"{source} is damaged: its rows differ from their hash in its footer")
    sha256 = hashlib.sha256(data).hexdigest()
    summary = summer.summary(footer.rounding)
    return Totals(footer.rows, failed, len(data), content.hexdigest(), sha256, summary), footer


def read_columns(uri: str, columns: list[str]) -> pa.Table:
    """Read some columns of a shard file where it lies, and not the others.

    Raises CacheCorrupt, whatever the reason that it can't be read.
    """
    filesystem, path = storage.resolve(uri)
    try:
        with filesystem.open_input_file(path) as file:
            return pq.ParquetFile(file).read(columns, use_threads=False).select(columns)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CacheCorrupt(f"{uri} is not a readable shard file: {error}") from error


def read_row_group(uri: str, row: int) -> RowGroup:
    """Read the row group of a shard file that holds row number ``row``, and not the others.

    Raises CacheCorrupt, also where it has no such row, and UnsupportedVersion.
    """
    filesystem, path = storage.resolve(uri)
    try:
        with filesystem.open_input_file(path) as source, pq.ParquetFile(source) as file:
            return _row_group(file, row, uri)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise CacheCorrupt(f"{uri} is not a readable shard file: {error}") from error


def decode_row_groups(data: bytes, source: str) -> Iterator[RowGroup]:
    """Yield the row groups of a shard file's bytes. Raises as ``decode`` does."""
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            row = 0
            while row < file.metadata.num_rows:
                group = _row_group(file, row, source)
                yield group
                row = group.stop
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable shard file: {error}") from error


def _row_group(file: pq.ParquetFile, row: int, source: str) -> RowGroup:
    start = 0
    for number in range(file.num_row_groups):
        stop = start + file.metadata.row_group(number).num_rows
        if row < stop:
            footer = _footer(file.metadata, source)
            return RowGroup(
                start, _rows(file.read_row_group(number, use_threads=False), footer), footer
            )
        start = stop
    raise CacheCorrupt(f"{source} has {start} rows, no row {row}")


def failed_rows(table: pa.Table) -> list[FailedRow]:
    """Pick the rows that are not ok of a table with the columns FAILED_ROW."""
    failed = table.filter(pc.field("status").cast(pa.string()) != OK).to_pylist()
    return [FailedRow(each["row"], each["key"], each["status"]) for each in failed]


def read_footer(data: Any, source: str) -> Footer:
    """Read only the footer, from a pyarrow file.

    Raises CacheCorrupt, or UnsupportedVersion for a newer major version.
    """
    try:
        with pq.ParquetFile(data) as file:
            return _footer(file.metadata, source)
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable shard file: {error}") from error


def _footer(file: pq.FileMetaData, source: str) -> Footer:
    metadata = file.metadata or {}
    if not metadata.keys() >= _KEYS:
        raise CacheCorrupt(f"{source} is a Parquet file, but not one of rhocache's")
    check_version(metadata[_VERSION].decode(), source, CACHE_FORMAT)
    rounding = metadata.get(_ROUNDING)
    return Footer(
        metadata[_FINGERPRINT].decode(),
        metadata[_SOURCE].decode(),
        file.num_rows,
        _shape(metadata[_IMAGE_SHAPE]),
        _shape(metadata[_TEXT_SHAPE]),
        metadata[_CONTENT].decode(),
        None if rounding is None else ShardRounding(**json.loads(rounding)),
    )


def _coarsest(roundings: Collection[ShardRounding | None]) -> ShardRounding | None:
    """The largest by its 99th percentile; None where one is not known."""
    known = [each for each in roundings if each is not None]
    if len(known) < len(roundings):
        return None
    return max(known, key=lambda each: (each.p99, each.max, each.mean, each.pairs))


def _shape(text: bytes) -> tuple[int, ...]:
    return tuple(int(size) for size in text.decode().split("x"))


class _HashingSink(io.RawIOBase):
    """Hashes what is written to a file on its way."""

    def __init__(self, sink: Sink) -> None:
        self._file = sink
        self.sha256 = hashlib.sha256()
        self.position = 0
        self.given_up = False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def write(self, data: Any, /) -> int:
        if self.given_up:  # a ParquetWriter can't be left without its writing a footer
            return len(data)
        self.sha256.update(data)
        self.position += len(data)
        return self._file.write(data)


def _embeddings(rows: ShardRows) -> list[Any]:
    """The columns of image and text embeddings."""
    if rows.codes is None:
        sides = zip((rows.image, rows.text), rows.counts, strict=True)
        return [vectors.listed(array, counts) for array, counts in sides]
    sides = zip(rows.codes, rows.counts, strict=True)
    return [vectors.binary(codes.codes, counts) for codes, counts in sides]


def _scales(rows: ShardRows) -> list[Any]:
    sides = zip(rows.codes or (), rows.counts, strict=False)
    return [vectors.listed(codes.scales, counts) for codes, counts in sides]


def _rows(table: pa.Table, footer: Footer) -> ShardRows:
    image, text = (
        read_vectors(table, which, shape)
        for which, shape in (("image", footer.image_shape), ("text", footer.text_shape))
    )
    return ShardRows(
        keys=cast("list[str]", table["key"].to_pylist()),
        status=cast("list[str]", table["status"].to_pylist()),
        image=image.vectors,
        text=text.vectors,
        similarity=table["similarity"].to_numpy(),
        image_hash=table["image_hash"].to_pylist(),
        caption_hash=table["caption_hash"].to_pylist(),
        captions=text.captions,
        codes=None if image.codes is None or text.codes is None else (image.codes, text.codes),
    )


@dataclass(frozen=True, slots=True)
class ReadVectors:
    """The embeddings of one side of a shard file's rows."""

    vectors: npt.NDArray[Any]  # [n, k, d], NaN where the row has none
    captions: npt.NDArray[np.int64] | None  # [n], of each row's own; None: as many of all
    codes: Codes | None  # of a file in int8


def read_vectors(table: pa.Table, which: str, shape: tuple[int, ...]) -> ReadVectors:
    """Read the columns of the ``image`` or ``text`` embeddings, of ``shape`` [k, d] a row.

    Raises ValueError for columns that are none.
    """
    column: Any = table[f"{which}_embeddings"]
    coded = pa.types.is_binary(column.type)
    values, lengths = vectors.numbers(column, np.int8)
    if not coded and values.dtype.kind != "f":
        raise ValueError(f"{which}_embeddings are {values.dtype}, which are no embeddings")
    every, counts = vectors.spread(values, lengths, shape, 0 if coded else np.nan)
    varied = counts[counts > 0] < shape[0]
    captions = np.where(counts > 0, counts, shape[0]) if varied.any() else None
    if not coded:
        return ReadVectors(every, captions, None)
    scales, scaled = vectors.numbers(table[f"{which}_scales"], np.float32)
    if (scaled != counts).any():
        raise ValueError(f"{which}_scales are not one a vector")
    codes = Codes(every, vectors.spread(scales, scaled, shape[:1], np.nan)[0])
    return ReadVectors(codes.vectors(), captions, codes)
