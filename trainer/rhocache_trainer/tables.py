"""Tables of pairs: Parquet files that hold the images, and a CSV that tells where they lie."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from rhocache_schemas import storage
from rhocache_schemas.errors import DatasetError
from rhocache_trainer.container import Part, Record, blocks, checked
from rhocache_trainer.files import Files

_READ_ROWS = 64  # of a row group, held at a time
_BUFFER_BYTES = 1 << 20
# What leads out of a folder, or out of its storage.
_OUTSIDE = r"^/|://|(^|/)\.\.(/|$)|\x00"
# Folders and suffixes around a file's name up to its first dot, as in tars.
_AROUND_STEM = r"^(?:.*/)?([^/.]*)[^/]*$"


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a table's columns. ``key`` and ``shard`` may be absent unless asked for.

    ``shard`` is the dataset shard, as a cache names it, that each pair once came from.
    """

    image: str
    caption: str
    key: str
    shard: str
    asked: frozenset[str] = frozenset()  # those of the names that somebody chose

    def check(self, there: list[str], source: str) -> None:
        lacking = {self.image, self.caption, *self.asked} - set(there)
        if lacking:
            raise DatasetError(
                f"{source} has no column {', '.join(sorted(lacking))}; it has {', '.join(there)}"
            )


class ParquetTable:
    """Parquet files with images as bytes, each row group a part.

    The image column may also be a struct with a field ``bytes``, as Hugging Face datasets have it.

    Raises DatasetError where a file is unreadable or lacks a column.
    """

    def __init__(self, files: Files, names: list[str], columns: Columns) -> None:
        self.parts: list[Part] = []
        self._files = files
        self._columns = columns
        self._names = names
        self._has = {columns.image, columns.caption, columns.key, columns.shard}
        self._groups: dict[str, tuple[str, int]] = {}  # part -> file, number of the row group
        for name in names:
            with _open_parquet(files, name) as table:
                columns.check(table.schema_arrow.names, storage.join(files.root, name))
                self._has &= {*table.schema_arrow.names}
                for group in range(table.num_row_groups):
                    part = Part(f"{name}#{group}", table.metadata.row_group(group).num_rows)
                    self.parts.append(part)
                    self._groups[part.name] = name, group

    def keys(self) -> pa.ChunkedArray:
        if self._columns.key not in self._has:
            raise DatasetError(
                f"{self._files.root} has no column {self._columns.key}, by which its pairs are "
                "joined with a cache; name it with data.key_column"
            )
        return self._column(self._columns.key)

    def shards(self) -> pa.ChunkedArray | None:
        return self._column(self._columns.shard) if self._columns.shard in self._has else None

    def read(self, part: Part, start: int) -> Iterator[Record]:
        name, group = self._groups[part.name]
        columns = self._columns
        wanted = [c for c in (columns.image, columns.caption, columns.key) if c in self._has]
        row = 0
        with _open_parquet(self._files, name) as table:
            for batch in table.iter_batches(_READ_ROWS, [group], wanted, use_threads=False):
                images = batch.column(columns.image)
                if pa.types.is_struct(images.type):
                    images = pc.struct_field(images, "bytes")
                captions = batch.column(columns.caption)
                for place in range(len(batch)):
                    if row >= start:
                        key = batch.column(columns.key)[place] if columns.key in wanted else row
                        content = partial(_content, images[place], captions[place])
                        yield Record(row, str(key), content)
                    row += 1

    def _column(self, name: str) -> pa.ChunkedArray:
        chunks: list[pa.Array] = []
        for file in self._names:
            with _open_parquet(self._files, file) as table:
                chunks += table.read([name])[name].cast(pa.large_string()).chunks
        return pa.chunked_array(chunks, pa.large_string())


class CsvTable:
    """A CSV or TSV with a header, the paths of images and their captions.

    ``images`` is the folder that the paths start from, where they are not whole paths below it.
    Without a key column, a pair's key is the name of its image, without folders, up to the first
    dot.

    Raises DatasetError where it is unreadable, lacks a column, or names a path outside ``images``.
    """

    def __init__(self, location: str, columns: Columns, images: str) -> None:
        table = _read_csv(location, columns)
        self._location = location
        self._files = Files(images)
        self._images = _below(table[columns.image], images, location)
        self._captions = table[columns.caption].combine_chunks()
        names = table.column_names
        self._keys = (
            table[columns.key].combine_chunks()
            if columns.key in names
            else pc.replace_substring_regex(self._images, _AROUND_STEM, r"\1")
        )
        self._shards = table[columns.shard] if columns.shard in names else None
        self.parts = blocks(len(table))

    def keys(self) -> pa.ChunkedArray:
        return pa.chunked_array([self._keys])

    def shards(self) -> pa.ChunkedArray | None:
        return self._shards

    def read(self, part: Part, start: int) -> Iterator[Record]:
        first = int(part.name)
        for row in range(start, part.rows or 0):
            image, caption, key = (
                column[first + row].as_py() for column in (self._images, self._captions, self._keys)
            )
            yield Record(row, key, partial(self._content, image, caption))

    def _content(self, image: str, caption: str) -> tuple[bytes, str]:
        return checked(self._files.read_image(image), caption)


def _open_parquet(files: Files, name: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(files.open(name), buffer_size=_BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        source = storage.join(files.root, name)
        raise DatasetError(f"{source} is not a readable Parquet file: {error}") from error


def _content(image: Any, caption: Any) -> tuple[bytes, str]:
    return checked(image.as_py(), caption.as_py())


def _read_csv(location: str, columns: Columns) -> Any:
    """All columns that are of use, as strings: a key may begin with zeros."""
    data = storage.read_bytes(location)
    header = data.partition(b"\n")[0]
    delimiter = "\t" if b"\t" in header else ","
    try:
        there = pa_csv.open_csv(io.BytesIO(data), parse_options=_parsing(delimiter)).schema.names
        columns.check(there, location)
        names = {columns.image, columns.caption, columns.key, columns.shard}
        return pa_csv.read_csv(
            io.BytesIO(data),
            parse_options=_parsing(delimiter),
            convert_options=pa_csv.ConvertOptions(
                include_columns=[name for name in there if name in names],
                column_types=dict.fromkeys(names, pa.large_string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowException as error:
        raise DatasetError(f"{location} is not a readable CSV: {error}") from error


def _parsing(delimiter: str) -> pa_csv.ParseOptions:
    return pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)


def _below(paths: pa.ChunkedArray, images: str, location: str) -> pa.Array:
    """Paths from the folder ``images``, which none may lead out of."""
    prefix = images.rstrip("/") + "/"
    whole = pc.starts_with(paths, prefix)
    relative = pc.if_else(whole, pc.utf8_slice_codeunits(paths, len(prefix)), paths)
    relative = relative.combine_chunks()
    outside = pc.index(pc.match_substring_regex(relative, _OUTSIDE), True).as_py()
    if outside >= 0:
        raise DatasetError(
            f"{location}: the image {relative[outside]} lies outside {images}; "
            "name the folder that holds all images with data.images"
        )
    return relative
