"""Parquet: tables of captions and their images as bytes."""

# pyarrow's stubs leave the parameters of its generic types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import posixpath
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rhocache_schemas import storage
from rhocache_schemas.dataset.formats.base import BLOCK, CheckPlace, KeyedFormat, numbered
from rhocache_schemas.dataset.formats.columns import ColumnNames, Columns, check_types, is_text
from rhocache_schemas.dataset.formats.files import Files
from rhocache_schemas.dataset.found import CAPTION_SUFFIX, IMAGE_SUFFIXES
from rhocache_schemas.dataset.keys import Strings
from rhocache_schemas.dataset.pair import Pair, choose_captions
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.dataset.tree import Entry
from rhocache_schemas.errors import DatasetError, RowErrorCode, StorageError

_READ_ROWS = 64  # of a row group, held at a time
_BUFFER_BYTES = 1 << 20
_READERS = 16  # threads; an object store answers each of them only after a while


class ParquetTable(KeyedFormat):
    """A Parquet file or a folder of them, with images as bytes.

    A shard is a row group or, where they are small, as many as have BLOCK rows together. The image
    column may also be a struct with a field ``bytes``, as Hugging Face datasets have it. A pair's
    key is that of the key column, else such a struct's field ``path``, else its file and the row's
    number in it. Of captions, in lists or several columns, the first that are not blank count.

    Raises DatasetError where a file is unreadable, lacks a column, or has one of another type, and
    where there is no row, or no image's bytes in any.
    """

    kind = "parquet"
    suffixes = (".parquet", ".pq")

    def __init__(self, source: Source, check: CheckPlace | None = None) -> None:
        names = ColumnNames.of(
            source, ("image", *IMAGE_SUFFIXES), ("caption", CAPTION_SUFFIX, "text")
        )
        self._files, entries = _find(source, check)
        root, self._names = self._files.root, [entry.name for entry in entries]
        self._files.check(self._names)
        with ThreadPoolExecutor(_READERS) as pool:
            found = dict(zip(self._names, pool.map(self._look, self._names), strict=True))
        schemas = {name: each.schema.to_arrow_schema() for name, each in found.items()}
        images = sum(  # that are not null, as far as the files' statistics tell
            _images(found[name], names.among(schema.names, self._location(name)).image)
            for name, schema in schemas.items()
        )
        first = schemas[self._names[0]].names
        common = [name for name in first if all(name in s.names for s in schemas.values())]
        self._columns = columns = names.among(common, root)
        for name, schema in schemas.items():
            check_types(schema, columns, self._location(name))
        if not sum(each.num_rows for each in found.values()):
            raise DatasetError(f"{root} holds no row ({', '.join(self._names[:5])})")
        if not images:
            raise DatasetError(
                f"{root}: column {columns.image} holds the bytes of no image; embed "
                "them, or name the files by a CSV"
            )
        self._has_paths = all(
            _has_paths(schema.field(columns.image).type) for schema in schemas.values()
        )
        runs = ((entry, run) for entry in entries for run in _runs(found[entry.name]))
        self._take([self._shard(entry, *run) for entry, run in runs])

    @classmethod
    def sign(cls, names: Sequence[str]) -> str | None:
        """A file of its own: one beside a folder of its name tells of what is in there."""
        folders = {name.rpartition("/")[0] for name in names}
        return next(
            (n for n in names if _is_parquet(n) and n.rpartition(".")[0] not in folders), None
        )

    def keys(self) -> Strings:
        """Return them as ``read`` does; where nothing names a pair, it is no other dataset's."""
        chunks: list[Strings] = []
        for name in self._names:
            with open_table(self._files, name) as table:
                chunks += self._keys_of(table, name)
        return pa.chunked_array(chunks, pa.large_string())

    def cache_shards(self) -> Strings | None:
        column = self._columns.shard
        if column is None:
            return None
        chunks: list[Strings] = []
        for name in self._names:
            with open_table(self._files, name) as table:
                chunks += map(_strings, table.read([column])[column].chunks)
        return pa.chunked_array(chunks, pa.large_string())

    def _look(self, name: str) -> pq.FileMetaData:
        with open_table(self._files, name) as table:
            return table.metadata

    def _shard(self, entry: Entry, groups: list[int], first: int, rows: int, size: int) -> Shard:
        content = RowGroups(
            self._files, entry.name, groups, first, self._columns, has_paths=self._has_paths
        )
        name = numbered(entry.name, groups[0])
        uri = self._location(entry.name)
        return Shard(name, uri, size, entry.mtime_ns, rows, content=content)

    def _keys_of(self, table: pq.ParquetFile, name: str) -> Iterator[Strings]:
        columns, first = self._columns, 0
        if columns.key is None and not self._has_paths:
            yield _row_names(name, 0, table.metadata.num_rows)
            return
        column = f"{columns.image}.path" if columns.key is None else columns.key
        for chunk in table.read([column])[columns.key or columns.image].chunks:
            keys = _strings(chunk if columns.key else pc.struct_field(chunk, "path"))
            yield pc.if_else(keys.is_null(), _row_names(name, first, len(keys)), keys)
            first += len(keys)

    def _location(self, name: str) -> str:
        return storage.join(self._files.root, name)


@dataclass(frozen=True, slots=True)
class RowGroups:
    """Some row groups of a file."""

    files: Files
    name: str
    groups: list[int]
    first: int  # row in the file
    columns: Columns
    has_paths: bool

    def read(self, shard: str, start: int = 0, *, images: bool = True) -> Iterator[Pair]:
        columns = self.columns
        by_path = self.has_paths and columns.key is None
        image = f"{columns.image}.path" if by_path else None
        image = columns.image if images else image
        wanted = [c for c in (image, *columns.captions, columns.key) if c is not None]
        row = 0
        with open_table(self.files, self.name) as table:
            for batch in table.iter_batches(_READ_ROWS, self.groups, wanted, use_threads=False):
                captions = [batch.column(name) for name in columns.captions]
                keys = None if columns.key is None else batch.column(columns.key)
                data = None if image is None else batch.column(columns.image)
                if data is not None and pa.types.is_struct(data.type):
                    keys = pc.struct_field(data, "path") if by_path else keys
                    data = pc.struct_field(data, "bytes") if images else None
                for place in range(len(batch)):
                    if row >= start:
                        key = None if keys is None else keys[place].as_py()
                        key = _row_name(self.name, self.first + row) if key is None else str(key)
                        stored = None if data is None else data[place].as_py()
                        pair = Pair(shard, row, key, stored, images=images)
                        yield _captioned(pair, [each[place] for each in captions], columns.most)
                    row += 1

    def load(self, pair: Pair) -> Pair:
        return pair


@contextmanager
def open_table(files: Files, name: str) -> Generator[pq.ParquetFile]:
    """Raises DatasetError for a file that is damaged, and StorageError."""
    local = storage.scheme(files.root) == "file"
    try:
        with pq.ParquetFile(files.open(name), buffer_size=_BUFFER_BYTES) as table:
            yield table
    except (pa.ArrowException, OSError) as error:
        place = storage.join(files.root, name)
        if isinstance(error, OSError) and not local:  # a store's, as likely, which may mend
            raise StorageError(f"cannot read {place}: {storage.reason(error)}") from error
        raise DatasetError(f"{place} is not a readable Parquet file: {error}") from error


def _runs(metadata: pq.FileMetaData) -> Iterator[tuple[list[int], int, int, int]]:
    """The row groups of each shard of a file, its first row, and its rows and bytes."""
    groups: list[int] = []
    first = rows = size = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        groups.append(number)
        rows += group.num_rows
        size += group.total_byte_size
        if rows >= BLOCK or (rows and number + 1 == metadata.num_row_groups):
            yield groups, first, rows, size
            groups, first, rows, size = [], first + rows, 0, 0


def _row_names(file: str, first: int, rows: int) -> Strings:
    names = [_row_name(file, first + row) for row in range(rows)]
    return pa.array(names, pa.large_string())


def _row_name(file: str, row: int) -> str:
    return f"{file}#{row}"


def _strings(column: Strings) -> Strings:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_string())


def _images(metadata: pq.FileMetaData, column: str) -> int:
    """How many rows of a file have an image's bytes, all of them where it does not tell."""
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


def _captioned(pair: Pair, stored: list[Any], most: int) -> Pair:
    try:
        values: list[Any] = [each.as_py() for each in stored]
        captions = choose_captions(
            (value.decode() if isinstance(value, bytes) else value for value in values), most
        )
    except UnicodeDecodeError:
        error = RowErrorCode.TEXT_NOT_UTF8
        return pair.failed(error, "its caption is not UTF-8")
    return pair.captioned(captions).checked()


def _find(source: Source, check: CheckPlace | None) -> tuple[Files, list[Entry]]:
    """The files of a dataset, and their folder."""
    if _is_parquet(source.dataset):
        folder, name = posixpath.split(source.dataset)
        filesystem, path = storage.resolve(source.dataset)
        try:
            info = filesystem.get_file_info(path)
        except OSError as error:
            raise storage.failure(f"cannot look at {source.dataset}", error) from error
        if not info.is_file:
            raise DatasetError(f"cannot read {source.dataset}: there is no such file")
        return Files(folder or ".", check), [Entry(name, info.size, info.mtime_ns or 0)]
    files = Files(source.dataset, check)
    entries = [each for each in files.list(ParquetTable.suffixes) if _is_parquet(each.name)]
    chosen = [
        each for each in entries if source.shards is None or fnmatch(each.name, source.shards)
    ]
    if not chosen:
        which = "" if source.shards is None else f" that matches {source.shards!r}"
        raise DatasetError(f"{source.dataset} holds no {ParquetTable.suffixes[0]} file{which}")
    return files, chosen


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(ParquetTable.suffixes)
