"""The Parquet file that holds the reference's embeddings of one shard's pairs."""

# pyarrow's stubs leave the parameters of its generic types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import hashlib
import io
from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas.documents import FORMAT_VERSION, check_version
from rhocache_schemas.errors import CacheCorrupt

OK = "ok"

_HASH = pa.binary(8)
_FINGERPRINT = b"rhocache.fingerprint_sha256"
_SOURCE = b"rhocache.source_sha256"
_VERSION = b"rhocache.format_version"


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
class Footer:
    """What a shard file says of its own origin."""

    fingerprint_sha256: str
    source_sha256: str  # of the dataset shard
    rows: int


def schema(views: int, captions: int, dimension: int, dtype: np.dtype[Any]) -> pa.Schema:
    number = pa.from_numpy_dtype(dtype)
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("row", pa.int32(), nullable=False),
            pa.field("status", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("image_embeddings", pa.fixed_shape_tensor(number, [views, dimension])),
            pa.field("text_embeddings", pa.fixed_shape_tensor(number, [captions, dimension])),
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
        self._schema = schema(views, captions, dimension, dtype)
        self._content = ContentDigest()
        self._failed = Counter[str]()
        self._rows = 0
        # Unit vectors neither repeat nor compress: pyarrow's defaults make them 5x slower to read.
        self._writer = pq.ParquetWriter(
            cast("Any", self._sink),
            self._schema,
            use_dictionary=["status"],  # pyright: ignore[reportArgumentType]
            compression="none",
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
            _tensor(rows.image, bad, self._schema.field("image_embeddings").type),
            _tensor(rows.text, bad, self._schema.field("text_embeddings").type),
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
        self._writer.add_key_value_metadata(
            {_VERSION: FORMAT_VERSION, _FINGERPRINT: fingerprint_sha256, _SOURCE: source_sha256}  # pyright: ignore[reportArgumentType]
        )
        self._writer.close()
        return Totals(
            rows=self._rows,
            failed_by_code=self._failed,
            size=self._sink.position,
            content_sha256=self._content.hexdigest(),
            file_sha256=self._sink.sha256.hexdigest(),
        )


def encode(rows: ShardRows, fingerprint_sha256: str, source_sha256: str) -> bytes:
    """Give the bytes of a shard file of one row group."""
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
            table = file.read()
            footer = _footer(file.metadata, source)
        rows = _rows(table)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable shard file: {error}") from error
    return rows, footer


def sum_up(data: bytes, source: str) -> tuple[Totals, Footer]:
    """Give what a shard file comes to. Holds a row group at a time, where ``decode`` has them all.

    Raises CacheCorrupt, or UnsupportedVersion for a newer major version.
    """
    content, failed = ContentDigest(), Counter[str]()
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            footer = _footer(file.metadata, source)
            content.update(_rows(file.schema_arrow.empty_table()))
            for group in range(file.num_row_groups):
                rows = _rows(file.read_row_group(group))
                content.update(rows)
                failed.update(status for status in rows.status if status != OK)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable shard file: {error}") from error
    sha256 = hashlib.sha256(data).hexdigest()
    return Totals(footer.rows, failed, len(data), content.hexdigest(), sha256), footer


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
    if not {_VERSION, _FINGERPRINT, _SOURCE} <= metadata.keys():
        raise CacheCorrupt(f"{source} is a Parquet file, but not one of rhocache's")
    check_version(metadata[_VERSION].decode(), source)
    return Footer(metadata[_FINGERPRINT].decode(), metadata[_SOURCE].decode(), file.num_rows)


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


def _tensor(values: npt.NDArray[Any], null: npt.NDArray[np.bool_], tensor: Any) -> Any:
    flat = pa.array(values.reshape(-1))
    lists: Any = pa.FixedSizeListArray  # the stubs lack ``type`` together with ``mask``
    storage = lists.from_arrays(flat, type=tensor.storage_type, mask=pa.array(null))
    return cast("Any", pa.ExtensionArray).from_storage(tensor, storage)


def _rows(table: pa.Table) -> ShardRows:
    return ShardRows(
        keys=cast("list[str]", table["key"].to_pylist()),
        status=cast("list[str]", table["status"].to_pylist()),
        image=_numpy(table["image_embeddings"]),
        text=_numpy(table["text_embeddings"]),
        similarity=table["similarity"].to_numpy(),
        image_hash=table["image_hash"].to_pylist(),
        caption_hash=table["caption_hash"].to_pylist(),
    )


def _numpy(column: Any) -> npt.NDArray[Any]:
    """[n, *shape] of a fixed_shape_tensor column, NaN where it is null."""
    if not isinstance(column.type, pa.FixedShapeTensorType):
        raise ValueError(f"a column of {column.type} where tensors should be")  # noqa: TRY004
    array = column.combine_chunks()
    values = array.storage.values.to_numpy(zero_copy_only=False)
    values = values.reshape(len(array), *array.type.shape)
    if array.null_count:
        values = values.copy()
        values[array.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return values
