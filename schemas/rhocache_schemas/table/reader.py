"""The one way to open a committed table: it checks what every reader of one must check."""

# pyright: reportUnknownMemberType=false

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Self

import pyarrow as pa

from rhocache_schemas import layout, storage
from rhocache_schemas.abandonment import keep_on
from rhocache_schemas.errors import CacheCorrupt, CacheIncomplete, CacheNotFound, InvalidInput
from rhocache_schemas.table import files
from rhocache_schemas.table.documents import TableManifest
from rhocache_schemas.table.files import TableFile


def is_table(uri: str) -> bool:
    """Whether a folder holds a table, complete or not. Raises StorageError."""
    return any(storage.exists(each(uri)) for each in (layout.table_plan, layout.table_manifest))


class TableReader:
    """A committed table, opened by ``open`` or ``find``: of each pair of a cache a row, by shard
    and key, or files of its kind's own.

    Opening reads table.json alone; the index is read when it is first asked for, and kept.
    """

    def __init__(self, uri: str, manifest: TableManifest) -> None:
        self.uri = uri
        self.manifest = manifest

    @classmethod
    def open(cls, uri: str) -> Self:
        """Raises CacheNotFound, CacheIncomplete where it is not complete, InvalidDocument,
        UnsupportedVersion and StorageError."""
        found = cls.find(uri)
        if found is not None:
            return found
        if storage.exists(layout.table_plan(uri)):
            raise CacheIncomplete(
                f"{uri} has no {layout.TABLE}: it is still being made, or was interrupted; run its "
                "job again to complete it"
            )
        raise CacheNotFound(f"there is no table at {uri}: it has no {layout.TABLE}")

    @classmethod
    def find(cls, uri: str) -> Self | None:
        """None where no table is committed there. Raises InvalidDocument, UnsupportedVersion and
        StorageError."""
        source = layout.table_manifest(uri)
        return cls(uri, TableManifest.read(source)) if storage.exists(source) else None

    @cached_property
    def index(self) -> list[TableFile]:
        """Its files, once the index's hash is found to be the one that table.json names.

        Raises CacheCorrupt and StorageError.
        """
        source = layout.index_file(self.uri)
        data = storage.read_bytes(source)
        found, named = hashlib.sha256(data).hexdigest(), self.manifest.index_sha256
        if found != named:
            raise CacheCorrupt(
                f"{source} has SHA-256 {found}, but {layout.TABLE} names {named}: make the table "
                "anew"
            )
        return files.decode_index(data, source)

    @cached_property
    def shards(self) -> dict[str, TableFile]:
        """The files of shards, by shard, in the order of the cache's index."""
        return {file.shard: file for file in self.index if file.shard is not None}

    def read(self, file: TableFile) -> bytes:
        """Read a file, which has the hash that the index names.

        Raises CacheCorrupt and StorageError.
        """
        keep_on()
        source = storage.join(self.uri, file.name)
        data = storage.read_bytes(source)
        if (found := hashlib.sha256(data).hexdigest()) != file.sha256:
            raise CacheCorrupt(f"{source} has SHA-256 {found}, but the index {file.sha256}")
        return data

    def file(self, name: str) -> bytes:
        """Read a file of the kind's own, by its name. Raises CacheIncomplete, and as ``read``."""
        path = f"files/{name}"
        for file in self.index:
            if file.name == path:
                return self.read(file)
        raise CacheIncomplete(f"{self.uri} has no file {path}")

    def columns(self, shard: str, columns: list[str] | None = None) -> pa.Table:
        """Some columns of a shard's file, or all: shard, key, row, and the kind's, in its order.

        Raises CacheIncomplete for a shard that it lacks, and as ``read`` does.
        """
        file = self.shards.get(shard)
        if file is None:
            raise CacheIncomplete(f"{self.uri} has no shard {shard}")
        return files.decode(self.read(file), columns, storage.join(self.uri, file.name))

    def columns_of_all(self, columns: list[str]) -> Iterator[tuple[str, pa.Table]]:
        """Yield each shard with some columns. Raises as ``columns`` does."""
        for shard in self.shards:
            yield shard, self.columns(shard, columns)

    def as_table(self, columns: list[str]) -> pa.Table:
        """The columns ``shard``, ``key`` and those named, of all pairs: to be joined by the first
        two.

        Raises InvalidInput for a column that there is not, and as ``columns`` does.
        """
        self.check_columns(columns)
        wanted = ["shard", "key", *columns]
        parts = [table for _, table in self.columns_of_all(wanted)]
        return pa.concat_tables(parts).select(wanted)

    def check_columns(self, columns: list[str]) -> None:
        """Raise InvalidInput for a column that there is not."""
        there = [column.name for column in self.manifest.columns]
        for name in columns:
            if name not in there:
                raise InvalidInput(
                    f"{self.uri} has no column {name!r}; its kind is {self.manifest.spec.kind}, "
                    f"which has {', '.join(there) or 'no columns'}"
                )
