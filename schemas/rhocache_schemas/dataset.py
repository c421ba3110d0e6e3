"""Which shards a dataset has: a folder, a brace pattern or one tar; a local path or a URI."""

import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch

from braceexpand import braceexpand
from pyarrow import fs

from rhocache_schemas import storage
from rhocache_schemas.errors import DatasetError, StorageError
from rhocache_schemas.tree import Entry, list_files

SUFFIX = ".tar"
# Pairs in containers that are not read as shards: a compressed tar, or Parquet.
_OTHERS = re.compile(
    r"\.(tar\.(gz|bz2?|xz|zstd?|lz4|lzma|lzo|br|sz|z|7z|zip)|t[abgx]z2?|tzst|parquet|pq)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Shard:
    name: str  # path under the dataset's root: what joins a dataset and a cache
    uri: str
    size: int  # bytes
    mtime_ns: int  # 0 where the storage tells none


def list_shards(
    dataset: str, pattern: str | None = None, check_link: Callable[[str], None] | None = None
) -> list[Shard]:
    """List a dataset's shards in order of their names.

    A folder gives every ``.tar`` below it that is not hidden (see list_files, which gets
    ``check_link``); ``pattern`` is a glob that their names must match. The root of a brace pattern
    is the folder before its first brace, that of one tar its folder. A shard that can't be opened
    is listed too: reading it tells why.

    Raises DatasetError when there is nothing there, nothing matches, or pairs would be left out:
    those of compressed tars and Parquet files without a tar of the same name beside them.
    """
    filesystem, path = storage.resolve(dataset)
    try:
        if "{" in path:
            root = posixpath.dirname(path.partition("{")[0])
            entries = _expand(filesystem, path, dataset, root)
        else:
            root, entries = _walk(filesystem, path, dataset, check_link)
    except OSError as error:
        raise StorageError(f"cannot list {dataset}: {storage.reason(error)}") from error
    _check_others(dataset, [entry.name for entry in entries], pattern)
    shards = [
        _shard(entry, root, dataset)
        for entry in entries
        if root != path or is_shard(entry.name)  # what is named itself may have any name
    ]
    chosen = [shard for shard in shards if pattern is None or fnmatch(shard.name, pattern)]
    if not chosen:
        raise DatasetError(
            f"no shard of {dataset} matches {pattern!r}; it has {_some(s.name for s in shards)}"
            if shards
            else f"{dataset} holds no {SUFFIX} file; it has "
            + (_some(entry.name for entry in entries) or "no file at all")
        )
    return sorted(chosen, key=lambda shard: shard.name)


def is_shard(name: str) -> bool:
    return name.lower().endswith(SUFFIX)


def find_shards(dataset: str, names: Iterable[str]) -> dict[str, Shard]:
    """Look for shards by their names under a dataset's root; those that are gone are left out.

    Raises StorageError.
    """
    filesystem, path = storage.resolve(dataset)
    try:
        root = _root(filesystem, path)
        infos = filesystem.get_file_info([posixpath.join(root, name) for name in names])
    except OSError as error:
        raise StorageError(f"cannot look into {dataset}: {storage.reason(error)}") from error
    there = [info for info in infos if info.type == fs.FileType.File]
    found = [_shard(_entry(info, root), root, dataset) for info in there]
    return {shard.name: shard for shard in found}


def dataset_root(dataset: str) -> str:
    """Name the folder that shard names are relative to: equal for all patterns of one dataset."""
    filesystem, path = storage.resolve(dataset)
    return _prefix(dataset) + _root(filesystem, path)


def _root(filesystem: fs.FileSystem, path: str) -> str:
    if "{" in path:
        return posixpath.dirname(path.partition("{")[0])
    return posixpath.dirname(path) if filesystem.get_file_info(path).is_file else path


def _shard(entry: Entry, root: str, dataset: str) -> Shard:
    uri = _prefix(dataset) + posixpath.join(root, entry.name)
    return Shard(entry.name, uri, entry.size, entry.mtime_ns)


def _prefix(dataset: str) -> str:
    return dataset.partition("://")[0] + "://" if "://" in dataset else ""


def _walk(
    filesystem: fs.FileSystem, path: str, dataset: str, check_link: Callable[[str], None] | None
) -> tuple[str, list[Entry]]:
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise DatasetError(f"no dataset at {dataset}: give a folder, a brace pattern or a tar file")
    if info.type == fs.FileType.Unknown:
        raise DatasetError(f"{dataset} is neither a folder nor a regular file")
    if info.type == fs.FileType.File:
        return posixpath.dirname(path), [_entry(info, posixpath.dirname(path))]
    return path, list_files(dataset, (SUFFIX,), check_link)


def _expand(filesystem: fs.FileSystem, path: str, dataset: str, root: str) -> list[Entry]:
    try:
        paths = list(dict.fromkeys(braceexpand(path)))
    except ValueError as error:
        raise DatasetError(f"{dataset}: {error}") from error
    infos = filesystem.get_file_info(paths)
    absent = [info.path for info in infos if info.type != fs.FileType.File]
    if absent:
        raise DatasetError(
            f"{len(absent)} of {len(paths)} shards of {dataset} are not there: {_some(absent)}"
        )
    return [_entry(info, root) for info in infos]


def _entry(info: fs.FileInfo, root: str) -> Entry:
    return Entry(posixpath.relpath(info.path, root), info.size, info.mtime_ns or 0)


def _check_others(dataset: str, names: list[str], pattern: str | None) -> None:
    """Refuse a dataset of which a part would be left out without a word."""
    tars = {name[: -len(SUFFIX)] for name in names if is_shard(name)}
    others = [
        name
        for name in names
        if (suffix := _OTHERS.search(name))
        and name[: suffix.start()] not in tars  # a tar's own metadata, or what it was unpacked from
        and (pattern is None or fnmatch(name, pattern))
    ]
    if others:
        raise DatasetError(
            f"{dataset}: {_some(others)} can't be read as shards, which are plain {SUFFIX} files: "
            "unpack compressed ones and write pairs in Parquet as tars; where these hold no pairs, "
            f"choose the others by a glob for shards, such as '*{SUFFIX}'"
        )


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
