"""The one way to open a committed cache: it checks what every reader of one must check."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import islice
from typing import Self, TypeVar

import pyarrow as pa

from rhocache_schemas import layout, storage
from rhocache_schemas.abandonment import keep_on
from rhocache_schemas.cache import index, listing, shard_file
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.index import IndexRow
from rhocache_schemas.cache.rows import ShardRows
from rhocache_schemas.cache.shard_file import OK, FailedRow, Footer
from rhocache_schemas.cache.summary import ShardSummary, Summary
from rhocache_schemas.dataset.pair import Pair, hash_captions, hash_image
from rhocache_schemas.errors import (
    CacheCorrupt,
    CacheError,
    CacheIncomplete,
    CacheNotFound,
    StorageError,
)

_Content = TypeVar("_Content", bytes, tuple[str, ...])  # an image, captions

_READERS = 16  # threads; an object store answers each of them only after a while
_BATCH = 256  # shards that wait for one, or whose columns wait to be used


class CacheReader:
    """A committed cache, opened by ``open`` or ``find``.

    Opening reads the manifest alone. The index is read when it is first asked for, and kept; shard
    files are read anew each time. A cache that is committed anew meanwhile is to be opened anew:
    CacheIncomplete says so where what was read does not fit together any more.
    """

    def __init__(self, uri: str, manifest: Manifest) -> None:
        self.uri = uri
        self.manifest = manifest

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open the cache at a path or URI.

        Raises CacheNotFound, CacheIncomplete where there is no manifest yet, and what ``find``
        raises.
        """
        found = cls.find(uri)
        if found is not None:
            return found
        if storage.exists(layout.plan_file(uri)):
            raise CacheIncomplete(
                f"{uri} has no {layout.MANIFEST}: it is still being made, or was interrupted; "
                "run its job again to complete it"
            )
        raise CacheNotFound(f"there is no cache at {uri}: it has no {layout.MANIFEST}")

    @classmethod
    def find(cls, uri: str) -> Self | None:
        """Open the cache at a path or URI; None where nothing is committed there.

        Raises InvalidDocument, UnsupportedVersion and CacheCorrupt for its manifest, and
        StorageError.
        """
        source = layout.manifest_file(uri)
        if not storage.exists(source):
            return None
        manifest = Manifest.read(source)
        if manifest.fingerprint.digest != manifest.fingerprint_sha256:
            raise CacheCorrupt(
                f"{source}: its fingerprint has SHA-256 {manifest.fingerprint.digest}, not "
                f"{manifest.fingerprint_sha256} as it says"
            )
        return cls(uri, manifest)

    @cached_property
    def index(self) -> dict[str, IndexRow]:
        """The index's rows by shard, in its order, once its hash is found to be the manifest's.

        Raises CacheIncomplete where it is missing, CacheCorrupt where it is another one, and
        StorageError.
        """
        data = self._named(layout.INDEX, self.manifest.index_sha256)
        return {row.name: row for row in index.decode(data, layout.index_file(self.uri))}

    @cached_property
    def summaries(self) -> dict[str, ShardSummary]:
        """What the index says of each shard's similarities; nothing in format 1.

        Raises what ``index`` does.
        """
        data = self._named(layout.INDEX, self.manifest.index_sha256)
        return index.decode_summaries(data, layout.index_file(self.uri))

    @cached_property
    def summary(self) -> Summary | None:
        """What is known of all similarities; None in format 1.

        Raises CacheIncomplete where it is missing, CacheCorrupt where it is another one than the
        manifest names, InvalidDocument, and StorageError.
        """
        if self.manifest.summary_sha256 is None:
            return None
        data = self._named(layout.SUMMARY, self.manifest.summary_sha256)
        return Summary.parse(data, layout.summary_file(self.uri))

    def check_index(self) -> None:
        """See that the index is the manifest's, without reading its rows; raises as it does."""
        self._named(layout.INDEX, self.manifest.index_sha256)

    def _named(self, name: str, named: str) -> bytes:
        """The bytes of a file that the manifest names by hash."""
        source = storage.join(self.uri, name)
        if not storage.exists(source):
            raise self._unless_committed_anew(
                CacheIncomplete(
                    f"{self.uri} has a {layout.MANIFEST} but no {name}: "
                    "`rhocache verify --repair` makes it anew from the shard files"
                )
            )
        data = storage.read_bytes(source)
        found = hashlib.sha256(data).hexdigest()
        if found != named:
            raise self._unless_committed_anew(
                CacheCorrupt(
                    f"{source} has SHA-256 {found}, but {layout.MANIFEST} names {named}: "
                    "`rhocache verify --repair` makes it anew from the shard files"
                )
            )
        return data

    def columns(self, shard: str, columns: list[str]) -> pa.Table:
        """Read some columns of a shard's file where it lies, and not the others.

        Its hash is not checked, but where the file can't be read. Raises what ``shard_bytes``
        raises.
        """
        keep_on()
        uri = layout.shard_file(self.uri, shard)
        try:
            return shard_file.read_columns(uri, columns)
        except CacheCorrupt as error:
            self.shard_bytes(shard)  # tells better what is wrong
            raise StorageError(f"cannot read {uri}: {error}") from error

    def columns_of_all(
        self, shards: Iterable[str], columns: list[str]
    ) -> Iterator[tuple[str, pa.Table]]:
        """Yield each shard with some columns of its file, in order. Raises what ``columns`` does.

        Many are read at a time: a cache may have 100,000 of them in an object store.
        """
        names = iter(shards)
        with ThreadPoolExecutor(_READERS) as pool:
            while batch := list(islice(names, _BATCH)):
                read = partial(self.columns, columns=columns)
                for name, table in zip(batch, pool.map(read, batch), strict=True):
                    keep_on()  # which a reader's thread does not know of
                    yield name, table

    def shard_bytes(self, shard: str) -> bytes:
        """Read a shard's file, which has the hash that the index names.

        Raises CacheIncomplete where the cache has no such shard or its file is missing,
        CacheCorrupt, and StorageError.
        """
        row = self.index.get(shard)
        if row is None:
            raise self.missing_shard(shard)
        uri = layout.shard_file(self.uri, shard)
        if not storage.exists(uri):
            raise self._unless_committed_anew(self._missing_file(uri))
        data = storage.read_bytes(uri)
        found = hashlib.sha256(data).hexdigest()
        if found != row.file_sha256:
            raise self._unless_committed_anew(
                CacheCorrupt(f"{uri} has SHA-256 {found}, but {layout.INDEX} {row.file_sha256}")
            )
        return data

    def rows(self, shard: str) -> tuple[ShardRows, Footer]:
        """Read all rows of a shard, and its footer. Raises what ``shard_bytes`` raises."""
        return shard_file.decode(self.shard_bytes(shard), layout.shard_file(self.uri, shard))

    def failures(self, shard: str) -> list[FailedRow]:
        """The rows of a shard that are not ok. Raises what ``columns`` and ``index`` raise."""
        if not self.index[shard].failed:
            return []
        return shard_file.failed_rows(self.columns(shard, shard_file.FAILED_ROW))

    def failed_by_code(self, shard: str) -> Counter[str]:
        """How many rows of a shard failed, by code, which the index does not keep."""
        if not self.index[shard].failed:
            return Counter()
        status = map(str, self.columns(shard, ["status"])["status"].to_pylist())
        return Counter(code for code in status if code != OK)

    def check_files(self, shards: Iterable[str]) -> None:
        """See that the files of these shards are all there, whole as far as their sizes tell.

        Raises CacheIncomplete and CacheCorrupt.
        """
        files = listing.shard_files(self.uri)
        for name in shards:
            uri = layout.shard_file(self.uri, name)
            if name not in files:
                raise self._missing_file(uri)
            size, indexed = files[name].size, self.index[name].bytes
            if size != indexed:
                raise CacheCorrupt(f"{uri} has {size} bytes, its index entry {indexed}")

    def missing_shard(self, name: str) -> CacheIncomplete:
        """The error that tells why the cache has no shard ``name``."""
        if code := self.manifest.failed_shards.get(name):
            why = f"it could not be read when the cache was made ({code})"
        else:
            why = f"it was made from {self.manifest.dataset}; is this another dataset?"
        return CacheIncomplete(f"{self.uri} has no shard {name}: {why}")

    def _missing_file(self, uri: str) -> CacheIncomplete:
        return CacheIncomplete(f"{uri} is in the index of {self.uri} but is not there")

    def _unless_committed_anew(self, error: CacheError) -> CacheError:
        """The error to raise where parts of the cache do not fit together."""
        now = self.find(self.uri)
        if now is not None and now.manifest == self.manifest:
            return error
        return CacheIncomplete(
            f"{self.uri} has been changed by a job since it was opened; open it again once its "
            f"{layout.MANIFEST} is there"
        )


def changes(
    pair: Pair, image_hash: bytes | None, caption_hash: bytes | None, *, imported: bool = False
) -> list[str]:
    """Say what of a pair is not as in its row of a cache, by hashes; empty where it is the same.

    They are compared as wide as the row has them. Of a row of an ``imported`` cache without them
    nothing can be said.
    """
    same = {
        "image": _same(pair.image, image_hash, hash_image, imported),
        "caption": _same(pair.captions or None, caption_hash, hash_captions, imported),
    }
    return [f"the {what} is not the one that was scored" for what in same if not same[what]]


def _same(
    content: _Content | None,
    stored: bytes | None,
    hashed: Callable[[_Content, int], bytes],
    imported: bool,
) -> bool:
    if content is None or stored is None:
        return stored is None and (imported or content is None)
    return hashed(content, len(stored)) == stored
