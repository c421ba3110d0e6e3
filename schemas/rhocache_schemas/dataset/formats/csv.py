"""CSV and TSV: a table of captions and of the paths of their images."""

import csv
import io
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute

from rhocache_schemas import storage
from rhocache_schemas.dataset.formats.base import BLOCK, CheckPlace, KeyedFormat, numbered
from rhocache_schemas.dataset.formats.columns import ColumnNames, Columns
from rhocache_schemas.dataset.formats.files import Files
from rhocache_schemas.dataset.found import IMAGE_SUFFIXES
from rhocache_schemas.dataset.keys import Strings, without_suffix
from rhocache_schemas.dataset.pair import Pair, choose_captions
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.dataset.tree import Entry
from rhocache_schemas.errors import DatasetError, RowError

pc: Any = pyarrow.compute  # whose stubs know no strings and numbers beside columns

_DELIMITERS = ",\t;|"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_CHUNK = 1 << 16  # rows that are held as Python's strings
# What leads out of a folder, or out of its storage.
_OUTSIDE = r"^/|://|(^|/)\.\.(/|$)|\x00"


class CsvTable(KeyedFormat):
    """A CSV or TSV with a header, the paths of images and their captions.

    ``images`` is the folder that the paths start from, where they are not whole paths below it.
    Without a key column, a pair's key is the path of its image up to the first dot of the name.

    A shard is a run of BLOCK rows.

    Raises DatasetError where it is unreadable, lacks a column, or names a path outside ``images``.
    """

    kind = "csv"
    suffixes = (".csv", ".tsv")

    def __init__(self, source: Source, check: CheckPlace | None = None) -> None:
        names = ColumnNames.of(source, ("filepath",), ("title",))  # as open_clip calls them
        self._location = location = source.dataset
        columns, table = _read_csv(location, names)
        self._files = Files(source.images or posixpath.dirname(location) or ".", check)
        images = _below(table[columns.image], self._files.root, location)
        keys: Any = without_suffix(images) if columns.key is None else table[columns.key]
        self._shards = None if columns.shard is None else table[columns.shard]
        self._files.check(each.as_py() for each in images)
        captions = [table[name] for name in columns.captions]
        self._take(
            [
                self._shard(number, block, columns.most)
                for number, block in enumerate(_blocks(keys, images, *captions))
            ]
        )

    def keys(self) -> Strings:
        return pa.chunked_array([self._block(shard).keys for shard in self.shards])

    def cache_shards(self) -> Strings | None:
        return self._shards

    def dated(self) -> list[Shard]:
        filesystem, path = storage.resolve(self._location)
        try:
            own = filesystem.get_file_info(path).mtime_ns or 0
        except OSError as error:
            raise storage.failure(f"cannot look at {self._location}", error) from error
        found = self._files.look(
            image for shard in self.shards for image in self._block(shard).images.to_pylist()
        )
        return [self._dated(shard, found, own) for shard in self.shards]

    def describe(self) -> str:
        first = self._block(self.shards[0]).images[0].as_py()
        return f"its images are looked for in {self._files.root}, such as {first}"

    def _dated(self, shard: Shard, found: Mapping[str, Entry], own: int) -> Shard:
        entries = [found[name] for name in self._block(shard).images.to_pylist() if name in found]
        times = [entry.mtime_ns for entry in entries]
        return replace(shard, size=sum(each.size for each in entries), mtime_ns=max([own, *times]))

    def _shard(self, number: int, block: list[Strings], most: int) -> Shard:
        name = numbered(posixpath.basename(self._location), number)
        keys, images, *captions = block
        content = CsvBlock(self._files, keys, images, captions, most)
        return Shard(name, self._location, 0, 0, len(content.keys), content=content)

    def _block(self, shard: Shard) -> "CsvBlock":
        return cast("CsvBlock", self._contents[shard.name])


@dataclass(frozen=True, slots=True)
class CsvBlock:
    """A run of rows."""

    files: Files
    keys: Strings
    images: Strings  # their paths
    captions: list[Strings]  # columns of them
    most: int  # that a pair has

    def read(self, shard: str, start: int = 0, *, images: bool = True) -> Iterator[Pair]:
        for row in range(start, len(self.keys)):
            captions = choose_captions((each[row].as_py() for each in self.captions), self.most)
            yield Pair(shard, row, self.keys[row].as_py(), images=images).captioned(captions)

    def load(self, pair: Pair) -> Pair:
        if not pair.images:
            return pair.checked()
        path = self.images[pair.row].as_py()
        try:
            return replace(pair, image=self.files.read_image(path)).checked()
        except RowError as error:
            return pair.failed(error.code, str(error))


def _blocks(*columns: Strings) -> Iterator[list[Strings]]:
    """Cut columns, and copy the parts: pickled, a slice takes all of its column with it."""
    arrays = [each.combine_chunks() if hasattr(each, "chunks") else each for each in columns]
    for first in range(0, len(arrays[0]), BLOCK):
        yield [pa.concat_arrays([each.slice(first, BLOCK)]) for each in arrays]


def _read_csv(location: str, names: ColumnNames) -> tuple[Columns, pa.Table]:
    """All columns that are of use, as strings: a key may begin with zeros.

    Every row is one that Python's csv reader gives, or an error: where a quote is not closed, a
    reader takes the rows after it for a part of the field.
    """
    data = storage.read_bytes(location)
    encoding = "utf-16" if data.startswith(_UTF_16) else "utf-8-sig"
    columns, delimiter = _header(data, encoding, names, location)
    reader = _reader(data, encoding, delimiter)
    tables: list[pa.Table] = []
    line = 1  # on which a row begins
    try:
        header = next(reader)
        chosen = (columns.image, *columns.captions, columns.key, columns.shard)
        places = {name: header.index(name) for name in chosen if name is not None}
        content: dict[str, list[str]] = {name: [] for name in places}
        line = reader.line_num + 1
        for row in reader:
            if row:  # not an empty line
                if wrong := _fault(row, header, places[columns.image], delimiter):
                    raise DatasetError(f"{location}, line {line}: not a readable CSV: {wrong}")
                for name, place in places.items():
                    content[name].append(row[place])
            line = reader.line_num + 1
            if len(content[columns.image]) == _CHUNK:
                tables.append(_table(content))
                content = {name: [] for name in places}
    except csv.Error as error:
        raise DatasetError(
            f"{location}, line {line}: not a readable CSV: {error}; a field that begins with a "
            "quote must end with one, and those in it be doubled"
        ) from error
    except UnicodeDecodeError as error:
        line = _undecodable_line(data, encoding)
        raise DatasetError(
            f"{location}, line {line}: not {encoding.removesuffix('-sig').upper()}"
        ) from error
    table = pa.concat_tables([*tables, _table(content)])
    if not len(table):
        raise DatasetError(f"{location} has a header but no row")
    return columns, table


def _reader(data: bytes, encoding: str, delimiter: str, errors: str = "strict") -> Any:
    text = io.TextIOWrapper(io.BytesIO(data), encoding, errors, newline="")
    return csv.reader(text, delimiter=delimiter, strict=True)


def _header(data: bytes, encoding: str, names: ColumnNames, location: str) -> tuple[Columns, str]:
    """The columns, and the delimiter by which the header has them."""
    if data[:2].count(0) and encoding != "utf-16":
        raise DatasetError(f"{location} begins like UTF-16 without its mark: save it as UTF-8")
    errors: list[tuple[int, DatasetError]] = []
    for delimiter in _DELIMITERS:
        try:
            header: list[str] = next(_reader(data, encoding, delimiter, "replace"), list[str]())
        except csv.Error:
            continue
        try:
            return names.among(header, location), delimiter
        except DatasetError as error:
            errors.append((len(header), error))
    if not errors:
        raise DatasetError(f"{location} is not a readable CSV: its header can't be read")
    raise max(errors, key=lambda each: each[0])[1]


def _fault(row: list[str], header: list[str], image: int, delimiter: str) -> str | None:
    """What is wrong with a row, as one can tell."""
    if len(row) != len(header):
        return (
            f"{len(row)} fields where the header has {len(header)}; one with a delimiter or a line "
            "break in it must be in quotes"
        )
    for field in row:
        for line in field.splitlines()[1:] if "\n" in field or "\r" in field else ():
            fields = line.split(delimiter)
            if len(fields) > image and _is_image(fields[image]):
                return (
                    f"a field in quotes goes on over the row of {fields[image]}; close its quote, "
                    "or double one that belongs to it"
                )
    return None


def _is_image(path: str) -> bool:
    return posixpath.splitext(path.strip('"').lower())[1][1:] in IMAGE_SUFFIXES


def _table(content: dict[str, list[str]]) -> pa.Table:
    return pa.table({name: pa.array(each, pa.large_string()) for name, each in content.items()})


def _undecodable_line(data: bytes, encoding: str) -> int:
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        text = io.StringIO(data[: error.start].decode(encoding, "ignore") + "x", newline="")
        return sum(1 for _ in text)
    return 1


def _below(paths: Strings, images: str, location: str) -> Strings:
    """Paths from the folder ``images``, which none may lead out of."""
    prefix = images.rstrip("/") + "/"
    whole = pc.starts_with(paths, prefix)
    relative = pc.if_else(whole, pc.utf8_slice_codeunits(paths, len(prefix)), paths)
    relative = relative.combine_chunks()
    if not pc.any(pc.match_substring(relative, "/")).as_py():  # as Windows writes paths
        relative = pc.replace_substring(relative, "\\", "/")
    outside = pc.index(pc.match_substring_regex(relative, _OUTSIDE), True).as_py()
    if outside >= 0:
        raise DatasetError(
            f"{location}: the image {relative[outside]} lies outside {images}; "
            "name the folder that holds all images (--images; in training data.images)"
        )
    return relative
