"""Parquet files of pairs."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rhocache_schemas import storage
from rhocache_schemas.dataset.formats.base import Part, Record, checked
from rhocache_schemas.dataset.formats.column_types import check_types, is_text
from rhocache_schemas.dataset.formats.columns import ColumnNames
from rhocache_schemas.dataset.formats.files import Files
from rhocache_schemas.dataset.pair import choose_caption
from rhocache_schemas.errors import DatasetError, RowError, RowErrorCode

_READ_ROWS = 64  # of a row group, held at a time
_BUFFER_BYTES = 1 << 20


class ParquetTable:
    """Parquet files with images as bytes, each row group a part.

    The image column may also be a struct with a field ``bytes``, as Hugging Face datasets have it,
    and then its field ``path`` is the key where no column is. Of a list of captions the first that
    is not blank counts.

    Raises DatasetError where a file is unreadable, lacks a column, or has one of another type, and
    where there is no row, or no image's bytes in any.
    """

    def __init__(self, files: Files, names: list[str], columns: ColumnNames) -> None:
        self.parts: list[Part] = []
        self._files = files
        self._names = names
        self._groups: dict[str, tuple[str, int]] = {}  # part -> file, number of the row group
        schemas: dict[str, pa.Schema] = {}
        images = 0  # that are not null, as far as the files' statistics tell
        for name in names:
            with self._open(name) as table:
                schema = schemas[name] = table.schema_arrow
                images += _images(table, columns.among(schema.names, self._source(name)).image)
                for group in range(table.num_row_groups):
                    part = Part(f"{name}#{group}", table.metadata.row_group(group).num_rows)
                    self.parts.append(part)
                    self._groups[part.name] = name, group
        common = [n for n in schemas[names[0]].names if all(n in s.names for s in schemas.values())]
        self._columns = columns.among(common, files.root)
        for name, schema in schemas.items():
            check_types(schema, self._columns, self._source(name))
        if not sum(part.rows or 0 for part in self.parts):
            raise DatasetError(f"{files.root} holds no row ({', '.join(names[:5])})")
        if not images:
            raise DatasetError(
                f"{files.root}: column {self._columns.image} holds the bytes of no image; embed "
                "them, or name the files by a CSV"
            )
        self._has_paths = all(
            _has_paths(schema.field(self._columns.image).type) for schema in schemas.values()
        )

    def keys(self) -> pa.ChunkedArray:
        if self._columns.key is not None:
            return self._column(self._columns.key)
        if self._has_paths:
            return self._column(self._columns.image, "path")
        raise DatasetError(
            f"{self._files.root} has no column key, by which its pairs are "
            "joined with a cache; name it with data.key_column"
        )

    def shards(self) -> pa.ChunkedArray | None:
        return None if self._columns.shard is None else self._column(self._columns.shard)

    def read(self, part: Part, start: int) -> Iterator[Record]:
        name, group = self._groups[part.name]
        columns = self._columns
        wanted = [c for c in (columns.image, columns.caption, columns.key) if c is not None]
        row = 0
        with self._open(name) as table:
            for batch in table.iter_batches(_READ_ROWS, [group], wanted, use_threads=False):
                images, captions = batch.column(columns.image), batch.column(columns.caption)
                keys = None if columns.key is None else batch.column(columns.key)
                if pa.types.is_struct(images.type):
                    keys = (
                        pc.struct_field(images, "path")
                        if self._has_paths and keys is None
                        else keys
                    )
                    images = pc.struct_field(images, "bytes")
                for place in range(len(batch)):
                    if row >= start:
                        key = str(row if keys is None else keys[place])
                        yield Record(row, key, partial(_content, images[place], captions[place]))
                    row += 1

    def _column(self, name: str, field: str | None = None) -> pa.ChunkedArray:
        """A column of all files as strings, or of a struct's column a field."""
        chunks: list[pa.Array] = []
        for file in self._names:
            with self._open(file) as table:
                column = table.read([name if field is None else f"{name}.{field}"])[name]
                for chunk in column.chunks:
                    values: Any = chunk if field is None else pc.struct_field(chunk, field)
                    if pa.types.is_dictionary(values.type):
                        values = values.dictionary_decode()
                    chunks.append(values.cast(pa.large_string()))
        return pa.chunked_array(chunks, pa.large_string())

    def _source(self, name: str) -> str:
        return storage.join(self._files.root, name)

    @contextmanager
    def _open(self, name: str) -> Generator[pq.ParquetFile]:
        try:
            with pq.ParquetFile(self._files.open(name), buffer_size=_BUFFER_BYTES) as table:
                yield table
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(
                f"{self._source(name)} is not a readable Parquet file: {error}"
            ) from error


def _images(table: pq.ParquetFile, column: str) -> int:
    """How many rows of a file have an image's bytes, all of them where it does not tell."""
    metadata = table.metadata
    columns = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    leaf = next((path for path in (column, f"{column}.bytes") if path in columns), None)
    if leaf is None:
        return metadata.num_rows
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    told: list[Any] = [group.column(columns.index(leaf)).statistics for group in groups]
    return metadata.num_rows - sum(each.null_count for each in told if each and each.has_null_count)


def _has_paths(kind: pa.DataType) -> bool:
    if not isinstance(kind, pa.StructType) or kind.get_field_index("path") < 0:
        return False
    return is_text(kind.field("path").type)


def _content(image: Any, caption: Any) -> tuple[bytes, str]:
    try:
        text = caption.as_py()
        text = text.decode() if isinstance(text, bytes) else choose_caption(text)
    except UnicodeDecodeError as error:
        raise RowError(RowErrorCode.TEXT_NOT_UTF8, "its caption is not UTF-8") from error
    return checked(image.as_py(), text)
