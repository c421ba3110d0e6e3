"""Parquet: tables of captions and their images as bytes."""

# pyarrow's stubs leave the parameters of its generic types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import posixpath
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rhocache_schemas import storage
from rhocache_schemas.dataset.formats.base import KeyedFormat, Source
from rhocache_schemas.dataset.formats.columns import ColumnNames, check_types, is_text
from rhocache_schemas.dataset.formats.files import Files
from rhocache_schemas.dataset.found import CAPTION_SUFFIX, IMAGE_SUFFIXES
from rhocache_schemas.dataset.keys import Strings
from rhocache_schemas.dataset.pair import Pair, choose_caption
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import DatasetError, RowErrorCode

_READ_ROWS = 64  # of a row group, held at a time
_BUFFER_BYTES = 1 << 20


class ParquetTable(KeyedFormat):
    """A Parquet file or a folder of them, with images as bytes, each row group a shard.

    The image column may also be a struct with a field ``bytes``, as Hugging Face datasets have it,
    and then its field ``path`` is the key where no column is. Of a list of captions the first that
    is not blank counts.

    Raises DatasetError where a file is unreadable, lacks a column, or has one of another type, and
    where there is no row, or no image's bytes in any.
    """

    kind = "parquet"
    suffixes = (".parquet", ".pq")

    def __init__(self, source: Source) -> None:
        names = ColumnNames.of(
            source, ("image", *IMAGE_SUFFIXES), ("caption", CAPTION_SUFFIX, "text")
        )
        self._files, self._names = _find(source)
        self.shards: list[Shard] = []
        self._groups: dict[str, tuple[str, int]] = {}  # shard -> file, number of the row group
        schemas: dict[str, pa.Schema] = {}
        images = 0  # that are not null, as far as the files' statistics tell
        for name in self._names:
            with self._open(name) as table:
                schema = schemas[name] = table.schema_arrow
                images += _images(table, names.among(schema.names, self._location(name)).image)
                for number in range(table.num_row_groups):
                    group = table.metadata.row_group(number)
                    shard = f"{name}#{number}"
                    size = group.total_byte_size
                    self.shards.append(Shard(shard, self._location(name), size, 0, group.num_rows))
                    self._groups[shard] = name, number
        first = schemas[self._names[0]].names
        common = [name for name in first if all(name in s.names for s in schemas.values())]
        root = self._files.root
        self._columns = names.among(common, root)
        for name, schema in schemas.items():
            check_types(schema, self._columns, self._location(name))
        if not sum(shard.rows or 0 for shard in self.shards):
            raise DatasetError(f"{root} holds no row ({', '.join(self._names[:5])})")
        if not images:
            raise DatasetError(
                f"{root}: column {self._columns.image} holds the bytes of no image; embed "
                "them, or name the files by a CSV"
            )
        self._has_paths = all(
            _has_paths(schema.field(self._columns.image).type) for schema in schemas.values()
        )

    @classmethod
    def sign(cls, names: Sequence[str]) -> str | None:
        """A file of its own: one beside a folder of its name tells of what is in there."""
        folders = {name.rpartition("/")[0] for name in names}
        return next(
            (n for n in names if _is_parquet(n) and n.rpartition(".")[0] not in folders), None
        )

    def keys(self) -> Strings:
        if self._columns.key is not None:
            return self._column(self._columns.key)
        if self._has_paths:
            return self._column(self._columns.image, "path")
        raise DatasetError(
            f"{self._files.root} has no column key, by which its pairs are "
            "joined with a cache; name it with data.key_column"
        )

    def cache_shards(self) -> Strings | None:
        return None if self._columns.shard is None else self._column(self._columns.shard)

    def read(self, shard: Shard, start: int = 0) -> Iterator[Pair]:
        name, group = self._groups[shard.name]
        columns = self._columns
        image = columns.image if self.images else None
        wanted = [c for c in (image, columns.caption, columns.key) if c is not None]
        row = 0
        with self._open(name) as table:
            for batch in table.iter_batches(_READ_ROWS, [group], wanted, use_threads=False):
                captions = batch.column(columns.caption)
                images = None if image is None else batch.column(image)
                keys = None if columns.key is None else batch.column(columns.key)
                if images is not None and pa.types.is_struct(images.type):
                    keys = (
                        pc.struct_field(images, "path")
                        if self._has_paths and keys is None
                        else keys
                    )
                    images = pc.struct_field(images, "bytes")
                for place in range(len(batch)):
                    if row >= start:
                        key = str(row if keys is None else keys[place])
                        data = None if images is None else images[place].as_py()
                        pair = Pair(shard.name, row, key, data, images=self.images)
                        yield _captioned(pair, captions[place].as_py())
                    row += 1

    def _column(self, name: str, field: str | None = None) -> Strings:
        """A column of all files as strings, or of a struct's column a field."""
        chunks: list[Strings] = []
        for file in self._names:
            with self._open(file) as table:
                column = table.read([name if field is None else f"{name}.{field}"])[name]
                for chunk in column.chunks:
                    values: Any = chunk if field is None else pc.struct_field(chunk, field)
                    if pa.types.is_dictionary(values.type):
                        values = values.dictionary_decode()
                    chunks.append(values.cast(pa.large_string()))
        return pa.chunked_array(chunks, pa.large_string())

    def _location(self, name: str) -> str:
        return storage.join(self._files.root, name)

    @contextmanager
    def _open(self, name: str) -> Generator[pq.ParquetFile]:
        try:
            with pq.ParquetFile(self._files.open(name), buffer_size=_BUFFER_BYTES) as table:
                yield table
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(
                f"{self._location(name)} is not a readable Parquet file: {error}"
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


def _captioned(pair: Pair, caption: Any) -> Pair:
    try:
        text = caption.decode() if isinstance(caption, bytes) else choose_caption(caption)
    except UnicodeDecodeError:
        error = RowErrorCode.TEXT_NOT_UTF8
        return pair.failed(error, "its caption is not UTF-8")
    return replace(pair, caption=text).checked()


def _find(source: Source) -> tuple[Files, list[str]]:
    """The files of a dataset, and their folder."""
    if _is_parquet(source.dataset):
        folder, name = posixpath.split(source.dataset)
        return Files(folder or "."), [name]
    files = Files(source.dataset)
    names = [name for name in files.list(ParquetTable.suffixes) if _is_parquet(name)]
    chosen = [name for name in names if source.shards is None or fnmatch(name, source.shards)]
    if not chosen:
        which = "" if source.shards is None else f" that matches {source.shards!r}"
        raise DatasetError(f"{source.dataset} holds no {ParquetTable.suffixes[0]} file{which}")
    return files, chosen


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(ParquetTable.suffixes)
