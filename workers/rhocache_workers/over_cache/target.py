"""Where the files of a table are written, as long as the cache stays the one that it is made of."""

from dataclasses import dataclass

import pyarrow as pa

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import CacheIncomplete
from rhocache_schemas.table import files
from rhocache_schemas.table.files import TableFile


@dataclass(frozen=True, slots=True)
class Target:
    """Goes to other processes as it is."""

    output: str
    identity: str
    cache: str
    manifest_sha256: str

    def confirm(self) -> None:
        """Raise CacheIncomplete where the cache was committed anew, or is gone."""
        uri = layout.manifest_file(self.cache)
        if storage.exists(uri) and storage.sha256(uri) == self.manifest_sha256:
            return
        raise CacheIncomplete(
            f"{self.cache} has been committed anew since this job began to read it; nothing is "
            "committed: run the job again, with --replace, once the cache stays as it is"
        )

    def write_shard(self, shard: str, rows: pa.Table) -> TableFile:
        """Write the rows of a shard's pairs. Raises CacheIncomplete and StorageError."""
        return self._write(layout.shard_file(self.output, shard), shard, rows)

    def write_table(self, name: str, rows: pa.Table) -> TableFile:
        """Write a Parquet file of the kind's own. Raises CacheIncomplete and StorageError."""
        return self._write(layout.table_file(self.output, name), None, rows)

    def write_bytes(self, name: str, data: bytes) -> TableFile:
        """Write another file of the kind's own. Raises CacheIncomplete and StorageError."""
        self.confirm()
        storage.write_atomic(layout.table_file(self.output, name), data)
        return TableFile.of(f"files/{name}", None, 0, data)

    def kept(self, shard: str) -> TableFile | None:
        """The file of a shard that an earlier run has written for the same table, if it is whole.

        Raises StorageError.
        """
        uri = layout.shard_file(self.output, shard)
        data = storage.read_bytes(uri)
        rows = files.rows_of(data, self.identity)
        return None if rows is None else TableFile.of(self._name(uri), shard, rows, data)

    def _write(self, uri: str, shard: str | None, rows: pa.Table) -> TableFile:
        data = files.encode(rows, self.identity)
        self.confirm()
        storage.write_atomic(uri, data)
        return TableFile.of(self._name(uri), shard, rows.num_rows, data)

    def _name(self, uri: str) -> str:
        return uri.removeprefix(storage.join(self.output, ""))


def open_cache(uri: str) -> tuple[CacheReader, str]:
    """Open a committed cache; return it with the SHA-256 of its manifest.

    Raises what CacheReader.open raises, and CacheIncomplete where it is just being committed anew.
    """
    found = CacheReader.open(uri)
    digest = storage.sha256(layout.manifest_file(uri))
    if CacheReader.open(uri).manifest != found.manifest:
        raise CacheIncomplete(f"{uri} is just being committed anew: run this job again")
    return found, digest
