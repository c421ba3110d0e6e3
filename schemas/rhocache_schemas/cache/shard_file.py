"""The Parquet file that holds the reference's embeddings of one shard's pairs."""

# pyarrow's stubs leave the parameters of its generic types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import hashlib
import io
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rhocache_schemas import storage
from rhocache_schemas.documents import FORMAT_VERSION, check_version
from rhocache_schemas.errors import CacheCorrupt

# Files are read with ``use_threads=False``: one of Arrow's threads may let go of the bytes, which
# are Python's, after the read has returned; if the interpreter ends just then, the process aborts.

OK = "ok"
FAILED_ROW = ["row", "key", "status"]  # the columns that a FailedRow is made of

_HASH = pa.binary(8)
_FINGERPRINT = b"rhocache.fingerprint_sha256"
_SOURCE = b"rhocache.source_sha256"
_VERSION = b"rhocache.format_version"
_IMAGE_SHAPE = b"rhocache.image_shape"
_TEXT_SHAPE = b"rhocache.text_shape"
_CONTENT = b"rhocache.content_sha256"
_KEYS = {_FINGERPRINT, _SOURCE, _VERSION, _IMAGE_SHAPE, _TEXT_SHAPE, _CONTENT}


@dataclass(frozen=True, slots=True)
class ShardRows:
    """The n rows of a shard file as columns, in tar order.

    V views and C captions a pair, embeddings of d numbers. Embeddings and similarities of rows
    whose status is not ``ok`` are NaN here and null in the file; a hash is null where there was no
    image or caption to hash.
    """

    keys: list[str]
    status: list[str]  # ``ok`` or a RowErrorCode
    image: npt.NDArray[np.floating]  # [n, V, d], unit vectors
    text: npt.NDArray[np.floating]  # [n, C, d], unit vectors
    similarity: npt.NDArray[np.float32]  # [n], cosine of view 0 and caption 0, before rounding
    image_hash: list[bytes | None]
    caption_hash: list[bytes | None]

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which rows are usable, [n]."""
        return np.array([status == OK for status in self.status], dtype=np.bool_)

    def content_sha256(self) -> str:
        digest = ContentDigest()
        digest.update(self)
        return digest.hexdigest()


class ContentDigest:
    """SHA-256 of rows themselves, however a Parquet writer groups and writes them."""

    def __init__(self) -> None:
        self._shapes = ""
        self._columns = [hashlib.sha256() for _ in range(7)]

    def update(self, rows: ShardRows) -> None:
        """Count in the next rows of the shard."""
        ok = rows.ok
        self._shapes = repr((rows.image.shape[1:], rows.text.shape[1:]))
        columns = (
            *("".join(f"{each}\0" for each in s).encode() for s in (rows.keys, rows.status)),
            *(
                np.ascontiguousarray(array[ok]).tobytes()
                for array in (rows.image, rows.text, rows.similarity)
            ),
            *(
                b"".join(h if h is not None else b"-" for h in hashes)
                for hashes in (rows.image_hash, rows.caption_hash)
            ),
        )
        for digest, column in zip(self._columns, columns, strict=True):
            digest.update(column)

    def hexdigest(self) -> str:
        digests = "".join(column.hexdigest() for column in self._columns)
        return hashlib.sha256((self._shapes + digests).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Totals:
    """What a shard file comes to."""

    rows: int
    failed_by_code: Counter[str]
    size: int  # bytes
    content_sha256: str
    file_sha256: str


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


def schema(dtype: np.dtype[Any]) -> pa.Schema:
    embeddings = pa.list_(pa.from_numpy_dtype(dtype))
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("row", pa.int32(), nullable=False),
            pa.field("status", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("image_embeddings", embeddings),
            pa.field("text_embeddings", embeddings),
            pa.field("similarity", pa.float32()),
            pa.field("image_hash", _HASH),
            pa.field("caption_hash", _HASH),
        ]
    )


class Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


class ShardFileWriter:
    """Writes a shard file a row group at a time: equal rows, groups and footer, equal bytes.

    The embeddings are stored in ``dtype``: float16 or float32. A context manager, so that a file
    that is given up takes no footer.
    """

    def __init__(
        self, sink: Sink, *, views: int, captions: int, dimension: int, dtype: np.dtype[Any]
    ) -> None:
        self._sink = _HashingSink(sink)
        self.dtype = dtype
        self._shapes = {
            _IMAGE_SHAPE: f"{views}x{dimension}",
            _TEXT_SHAPE: f"{captions}x{dimension}",
        }
        self._schema = schema(dtype)
        self._content = ContentDigest()
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
        empty = np.empty((0, views, dimension), dtype), np.empty((0, captions, dimension), dtype)
        self._content.update(ShardRows([], [], *empty, np.empty(0, np.float32), [], []))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sink.given_up = True
        self._writer.close()

    def write(self, rows: ShardRows) -> None:
        """Add a row group."""
        bad = ~rows.ok
        numbers = np.arange(self._rows, self._rows + len(rows.keys), dtype=np.int32)
        columns = [
            pa.array(rows.keys, pa.string()),
            pa.array(numbers),
            pa.array(rows.status).dictionary_encode(),
            _lists(rows.image, bad),
            _lists(rows.text, bad),
            pa.array(rows.similarity, mask=bad),
            pa.array(rows.image_hash, _HASH),
            pa.array(rows.caption_hash, _HASH),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._content.update(rows)
        self._failed.update(status for status in rows.status if status != OK)
        self._rows += len(rows.keys)

    def close(self, fingerprint_sha256: str, source_sha256: str) -> Totals:
        """Write the footer. The sink stays open."""
        content_sha256 = self._content.hexdigest()
        self._writer.add_key_value_metadata(
            {
                _VERSION: FORMAT_VERSION,  # pyright: ignore[reportArgumentType]
                _FINGERPRINT: fingerprint_sha256,
                _SOURCE: source_sha256,
                _CONTENT: content_sha256,
                **self._shapes,
            }
        )
        self._writer.close()
        return Totals(
            rows=self._rows,
            failed_by_code=self._failed,
            size=self._sink.position,
            content_sha256=content_sha256,
            file_sha256=self._sink.sha256.hexdigest(),
        )


def encode(rows: ShardRows, fingerprint_sha256: str, source_sha256: str) -> bytes:
    """Return the bytes of a shard file of one row group."""
    sink = io.BytesIO()
    _, views, dimension = rows.image.shape
    writer = ShardFileWriter(
        sink,
        views=views,
        captions=rows.text.shape[1],
        dimension=dimension,
        dtype=rows.image.dtype,
    )
    writer.write(rows)
    writer.close(fingerprint_sha256, source_sha256)
    return sink.getvalue()


def decode(data: bytes, source: str) -> tuple[ShardRows, Footer]:
    """Read the bytes of a shard file; ``source`` is what the errors call it.

    Raises CacheCorrupt, or UnsupportedVersion for a newer major version.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            table = file.read(use_threads=False)
            footer = _footer(file.metadata, source)
        rows = _rows(table, footer)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable shard file: {error}") from error
    return rows, footer


def sum_up(data: bytes, source: str) -> tuple[Totals, Footer]:
    """Return the totals and the footer of a shard file, read a row group at a time.

    Raises CacheCorrupt, also where its rows are not those of the hash in its own footer, or
    UnsupportedVersion for a newer major version.
    """
    content, failed = ContentDigest(), Counter[str]()
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            footer = _footer(file.metadata, source)
            content.update(_rows(file.schema_arrow.empty_table(), footer))
            for group in range(file.num_row_groups):
                rows = _rows(file.read_row_group(group, use_threads=False), footer)
                content.update(rows)
                failed.update(status for status in rows.status if status != OK)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable shard file: {error}") from error
    if content.hexdigest() != footer.content_sha256:
        raise CacheCorrupt(f"{source} is damaged: its rows differ from their hash in its footer")
    sha256 = hashlib.sha256(data).hexdigest()
    return Totals(footer.rows, failed, len(data), content.hexdigest(), sha256), footer


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
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable shard file: {error}") from error


def _footer(file: pq.FileMetaData, source: str) -> Footer:
    metadata = file.metadata or {}
    if not metadata.keys() >= _KEYS:
        raise CacheCorrupt(f"{source} is a Parquet file, but not one of rhocache's")
    check_version(metadata[_VERSION].decode(), source)
    return Footer(
        metadata[_FINGERPRINT].decode(),
        metadata[_SOURCE].decode(),
        file.num_rows,
        _shape(metadata[_IMAGE_SHAPE]),
        _shape(metadata[_TEXT_SHAPE]),
        metadata[_CONTENT].decode(),
    )


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


def _lists(values: npt.NDArray[Any], null: npt.NDArray[np.bool_]) -> Any:
    """A list a row of all numbers of ``values`` [n, *shape], or none where ``null``."""
    lengths = np.where(null, 0, values[0].size if len(values) else 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    lists: Any = pa.ListArray  # the stubs lack ``mask``
    return lists.from_arrays(
        pa.array(offsets), pa.array(values[~null].reshape(-1)), mask=pa.array(null)
    )


def _rows(table: pa.Table, footer: Footer) -> ShardRows:
    return ShardRows(
        keys=cast("list[str]", table["key"].to_pylist()),
        status=cast("list[str]", table["status"].to_pylist()),
        image=_numpy(table["image_embeddings"], footer.image_shape),
        text=_numpy(table["text_embeddings"], footer.text_shape),
        similarity=table["similarity"].to_numpy(),
        image_hash=table["image_hash"].to_pylist(),
        caption_hash=table["caption_hash"].to_pylist(),
    )


def _numpy(column: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """[n, *shape] of a column of lists, NaN where it is null."""
    if not pa.types.is_list(column.type):
        raise ValueError(f"a column of {column.type} where lists should be")
    array = column.combine_chunks()
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.diff(array.offsets.to_numpy())
    if (lengths[valid] != math.prod(shape)).any():
        raise ValueError(f"an embedding is not one of {' x '.join(map(str, shape))} numbers")
    values = array.flatten().to_numpy(zero_copy_only=False).reshape(int(valid.sum()), *shape)
    if valid.all():
        return values
    every = np.full((len(valid), *shape), np.nan, values.dtype)
    every[valid] = values
    return every
