"""The Parquet file that holds the reference's embeddings of one shard's pairs."""

# pyarrow's stubs leave the parameters of its generic types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import hashlib
from dataclasses import dataclass
from typing import Any, cast

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
        """SHA-256 of the rows themselves, whatever Parquet writer wrote them."""
        ok = self.ok
        digest = hashlib.sha256()
        for shape in (self.image.shape, self.text.shape):
            digest.update(repr(shape).encode())
        for strings in (self.keys, self.status):
            digest.update("\0".join(strings).encode())
        for array in (self.image[ok], self.text[ok], self.similarity[ok]):
            digest.update(np.ascontiguousarray(array).tobytes())
        for hashes in (self.image_hash, self.caption_hash):
            digest.update(b"".join(h if h is not None else b"-" for h in hashes))
        return digest.hexdigest()


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


def encode(rows: ShardRows, fingerprint_sha256: str, source_sha256: str) -> bytes:
    """Give the bytes of a shard file: equal rows and footer, equal bytes.

    The embeddings are stored in the dtype that they have: float16 or float32.
    """
    bad = ~rows.ok
    layout = schema(rows.image.shape[1], rows.text.shape[1], rows.image.shape[2], rows.image.dtype)
    columns = [
        pa.array(rows.keys, pa.string()),
        pa.array(np.arange(len(rows.keys), dtype=np.int32)),
        pa.array(rows.status).dictionary_encode(),
        _tensor(rows.image, bad, layout.field("image_embeddings").type),
        _tensor(rows.text, bad, layout.field("text_embeddings").type),
        pa.array(rows.similarity, mask=bad),
        pa.array(rows.image_hash, _HASH),
        pa.array(rows.caption_hash, _HASH),
    ]
    table = pa.Table.from_arrays(columns, schema=layout).replace_schema_metadata(
        {_VERSION: FORMAT_VERSION, _FINGERPRINT: fingerprint_sha256, _SOURCE: source_sha256}
    )
    sink = pa.BufferOutputStream()
    # Unit vectors neither repeat nor compress: pyarrow's defaults only make them 5x slower to read.
    pq.write_table(table, sink, use_dictionary=["status"], compression="none")  # pyright: ignore[reportArgumentType]
    return sink.getvalue().to_pybytes()


def decode(data: bytes, source: str) -> tuple[ShardRows, Footer]:
    """Read the bytes of a shard file; ``source`` is what the errors call it.

    Raises CacheCorrupt, or UnsupportedVersion for a newer major version.
    """
    try:
        table = pq.read_table(pa.BufferReader(data))
        footer = _footer(table.schema, table.num_rows, source)
        rows = ShardRows(
            keys=cast("list[str]", table["key"].to_pylist()),
            status=cast("list[str]", table["status"].to_pylist()),
            image=_numpy(table["image_embeddings"]),
            text=_numpy(table["text_embeddings"]),
            similarity=table["similarity"].to_numpy(),
            image_hash=table["image_hash"].to_pylist(),
            caption_hash=table["caption_hash"].to_pylist(),
        )
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable shard file: {error}") from error
    return rows, footer


def read_footer(data: Any, source: str) -> Footer:
    """Read only the footer, from a pyarrow file.

    Raises CacheCorrupt, or UnsupportedVersion for a newer major version.
    """
    try:
        with pq.ParquetFile(data) as file:
            return _footer(file.schema_arrow, file.metadata.num_rows, source)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CacheCorrupt(f"{source} is not a readable shard file: {error}") from error


def _footer(table: pa.Schema, rows: int, source: str) -> Footer:
    metadata = table.metadata or {}
    if not {_VERSION, _FINGERPRINT, _SOURCE} <= metadata.keys():
        raise CacheCorrupt(f"{source} is a Parquet file, but not one of rhocache's")
    check_version(metadata[_VERSION].decode(), source)
    return Footer(metadata[_FINGERPRINT].decode(), metadata[_SOURCE].decode(), rows)


def _tensor(values: npt.NDArray[Any], null: npt.NDArray[np.bool_], tensor: Any) -> Any:
    flat = pa.array(values.reshape(-1))
    lists: Any = pa.FixedSizeListArray  # the stubs lack ``type`` together with ``mask``
    storage = lists.from_arrays(flat, type=tensor.storage_type, mask=pa.array(null))
    return cast("Any", pa.ExtensionArray).from_storage(tensor, storage)


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
