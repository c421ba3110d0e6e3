"""Compares the shards of a cache with those of a dataset: which are the same, changed or gone."""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

from pyarrow import fs

from rhocache_schemas import layout, storage
from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.cache.index import IndexRow
from rhocache_schemas.cache.reader import CacheReader, changes
from rhocache_schemas.cache.summary import ShardSummary
from rhocache_schemas.dataset.formats import read_shard
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import (
    CacheCorrupt,
    CacheIncomplete,
    ShardError,
    StorageError,
    UnsupportedVersion,
)
from rhocache_workers.messages import CommittedShard, committed_shard

_READERS = 16  # threads; an object store answers each of them only after a while
_BATCH = 1024  # shards that wait for a reader: each takes more memory than what is found
_READ_BYTES = 128 << 20  # that they hold together, of shard files


@dataclass
class Survey:
    """The shards that a cache holds, by name, as their sources are now."""

    same: dict[str, CommittedShard] = field(default_factory=dict)
    changed: dict[str, CommittedShard] = field(default_factory=dict)
    gone: dict[str, CommittedShard] = field(default_factory=dict)
    unreadable: dict[str, CommittedShard] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)  # of them all, those whose own file is not whole

    @cached_property
    def all(self) -> dict[str, CommittedShard]:
        return self.same | self.changed | self.gone | self.unreadable


@dataclass(frozen=True, slots=True)
class _Found:
    shard: CommittedShard
    source: str  # the field of Survey that it goes to
    whole: bool = True


def survey(
    cache: str,
    files: Mapping[str, fs.FileInfo],
    committed: CacheReader | None,
    noted: Mapping[str, CommittedShard],
    sources: Mapping[str, Shard],
    read_as: Source,
    fingerprint: Fingerprint | None,
    *,
    moved: bool,
) -> Survey:
    """Compare the cache's shards, which have these ``files``, with the ``sources`` of a dataset,
    which are ``read_as`` it says.

    What a ``committed`` index says is taken as it is: reading the whole cache again is
    ``verify``'s work, and a new hash would bless a damaged file. So is what a run that did not
    end has ``noted`` of shards that no index names yet. Others count where they have this
    fingerprint, and are read. A source of another time is hashed, and where the dataset has
    ``moved`` each that no index names.

    Raises StorageError.
    """

    index = {} if committed is None else committed.index
    summaries = {} if committed is None else committed.summaries  # here, once for all readers

    def look(name: str) -> _Found | None:
        source = sources.get(name)
        if committed is not None and name in index:
            row, summary = index[name], summaries.get(name)
            return _look_at_committed(committed, row, summary, files.get(name), source, read_as)
        if name in noted and files[name].size == noted[name].index.bytes:
            return _compare(noted[name], source, read_as, moved=moved)
        if fingerprint is None:
            return None
        return _look_at_loose(cache, name, files[name], source, read_as, fingerprint, moved=moved)

    found = Survey()
    largest = max((file.size for file in files.values()), default=0)
    readers = min(_READERS, max(1, _READ_BYTES // max(1, largest)))
    names = iter(sorted(index.keys() | files.keys()))
    with ThreadPoolExecutor(readers) as pool:
        while batch := list(islice(names, _BATCH)):
            for each in filter(None, pool.map(look, batch)):
                name = each.shard.index.name
                getattr(found, each.source)[name] = each.shard
                if not each.whole:
                    found.damaged.add(name)
    return found


def _look_at_committed(
    cache: CacheReader,
    row: IndexRow,
    summary: ShardSummary | None,
    file: fs.FileInfo | None,
    source: Shard | None,
    read_as: Source,
) -> _Found:
    whole, failed = file is not None and file.size == row.bytes, Counter[str]()
    if whole:
        try:
            failed = cache.failed_by_code(row.name)
        except (CacheCorrupt, CacheIncomplete):
            whole = False
    shard = CommittedShard(row, failed, summary)
    return replace(_compare(shard, source, read_as, moved=False), whole=whole)


def _compare(
    shard: CommittedShard, source: Shard | None, read_as: Source, *, moved: bool
) -> _Found:
    if source is None:
        return _Found(shard, "gone")
    row = shard.index
    if source.differs(row.source_size, row.rows):
        return _Found(shard, "changed")
    of_then = source.size == row.source_size and source.mtime_ns == row.source_mtime_ns
    if of_then and not moved:
        return _Found(shard, "same")
    return _by_hash(shard, source, read_as)


def _look_at_loose(
    cache: str,
    name: str,
    file: fs.FileInfo,
    source: Shard | None,
    read_as: Source,
    fingerprint: Fingerprint,
    *,
    moved: bool,
) -> _Found | None:
    """Of a shard that no index names only the times of its file and its source are known.

    None where it is written again, whatever it is.
    """
    uri = layout.shard_file(cache, name)
    try:
        totals, footer = shard_file.sum_up(storage.read_bytes(uri), uri)
    except (CacheCorrupt, UnsupportedVersion):
        return None
    if footer.fingerprint_sha256 != fingerprint.digest:
        return None
    if source is None:
        return _Found(committed_shard(Shard(name, "", 0, 0), totals, footer.source_sha256), "gone")
    shard = committed_shard(source, totals, footer.source_sha256)
    if moved or source.mtime_ns > (file.mtime_ns or 0):
        return _by_hash(shard, source, read_as)
    try:
        alike = _begins_alike(uri, source, read_as)
    except ShardError:
        return _Found(shard, "unreadable")
    return _Found(shard, "same" if alike else "changed")


def _by_hash(shard: CommittedShard, source: Shard, read_as: Source) -> _Found:
    try:
        same = _sha256(source, read_as) == shard.index.source_sha256
    except (StorageError, ShardError):  # its encoder will say so better
        return _Found(shard, "unreadable")
    row = replace(shard.index, source_size=source.size, source_mtime_ns=source.mtime_ns)
    return _Found(replace(shard, index=row), "same") if same else _Found(shard, "changed")


def _sha256(source: Shard, read_as: Source) -> str | None:
    if source.content is None:  # needs no reading of pairs
        return storage.sha256(source.uri)
    reader = read_shard(source, read_as)
    for _ in reader:
        pass
    return reader.sha256


def _begins_alike(uri: str, source: Shard, read_as: Source) -> bool:
    """Whether the first pair is the one that was scored.

    A folder may have been swapped for another whose files are as old.
    """
    pair = next(iter(read_shard(source, read_as)), None)
    columns = ["key", "image_hash", "caption_hash"]
    rows = shard_file.read_columns(uri, columns).slice(0, 1).to_pylist()
    if pair is None or not rows:
        return pair is None and not rows
    key, image_hash, caption_hash = rows[0].values()
    return key == pair.key and not changes(pair, image_hash, caption_hash)
