"""Which shards a dataset has: a folder, a brace pattern or one tar; a local path or a URI."""

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch

from braceexpand import braceexpand
from pyarrow import fs

from rhocache_schemas import storage
from rhocache_schemas.errors import DatasetError, StorageError

SUFFIX = ".tar"


@dataclass(frozen=True, slots=True)
class Shard:
    name: str  # path under the dataset's root: what joins a dataset and a cache
    uri: str
    size: int  # bytes
    mtime_ns: int  # 0 where the storage tells none


def list_shards(dataset: str, pattern: str | None = None) -> list[Shard]:
    """List a dataset's shards in order of their names.

    A folder gives every ``.tar`` below it; ``pattern`` is a glob that their names must match.
    The root of a brace pattern is the folder before its first brace, that of one tar its folder.
    Braces in the name of a folder or tar that is there stand for themselves.

    Raises DatasetError when there is nothing there, or nothing matches, and InvalidInput for a
    shard whose name is not UTF-8.
    """
    filesystem, path = storage.resolve(dataset)
    try:
        literal = _literal(filesystem, path)
        if literal == path:
            root, infos = _walk(filesystem, path, dataset)
        else:
            root = _root(filesystem, path)
            infos = _expand(filesystem, literal, path[len(literal) :], dataset)
    except OSError as error:
        raise StorageError(f"cannot list {dataset}: {storage.reason(error)}") from error
    shards = [_shard(info, root, dataset) for info in infos]
    chosen = [shard for shard in shards if pattern is None or fnmatch(shard.name, pattern)]
    if not chosen:
        raise DatasetError(
            f"no shard of {dataset} matches {pattern!r}; it has {_some(s.name for s in shards)}"
            if shards
            else f"{dataset} holds no {SUFFIX} file"
        )
    return sorted(chosen, key=lambda shard: shard.name)


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
    found = [_shard(info, root, dataset) for info in infos if info.type == fs.FileType.File]
    return {shard.name: shard for shard in found}


def dataset_root(dataset: str) -> str:
    """Name the folder that shard names are relative to: equal for all patterns of one dataset."""
    filesystem, path = storage.resolve(dataset)
    return _prefix(dataset) + _root(filesystem, path)


def _root(filesystem: fs.FileSystem, path: str) -> str:
    literal = _literal(filesystem, path)
    if literal != path:
        return posixpath.dirname(literal + path[len(literal) :].partition("{")[0])
    return posixpath.dirname(path) if filesystem.get_file_info(path).is_file else path


def _shard(info: fs.FileInfo, root: str, dataset: str) -> Shard:
    storage.check_utf8(path := storage.path_of(info))
    name = posixpath.relpath(path, root)
    return Shard(name, _prefix(dataset) + path, info.size, info.mtime_ns or 0)


def _prefix(dataset: str) -> str:
    """What a shard's URI has before its path, which a local one is without."""
    kind = storage.scheme(dataset)
    return "" if kind == "file" else f"{kind}://"


def _walk(filesystem: fs.FileSystem, path: str, dataset: str) -> tuple[str, list[fs.FileInfo]]:
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise DatasetError(f"no dataset at {dataset}: give a folder, a brace pattern or a tar file")
    if info.type == fs.FileType.File:
        return posixpath.dirname(path), [info]
    below = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    tars = [i for i in below if i.type == fs.FileType.File and storage.path_of(i).endswith(SUFFIX)]
    return path, tars


def _literal(filesystem: fs.FileSystem, path: str) -> str:
    """The beginning of a path, up to a slash, that is there by its very name or has no brace."""
    while "{" in path and filesystem.get_file_info(path).type == fs.FileType.NotFound:
        path = posixpath.dirname(path)
    return path


def _expand(filesystem: fs.FileSystem, folder: str, braces: str, dataset: str) -> list[fs.FileInfo]:
    try:
        paths = [folder + name for name in dict.fromkeys(braceexpand(braces))]
    except ValueError as error:
        raise DatasetError(f"{dataset}: {error}") from error
    infos = filesystem.get_file_info(paths)
    absent = [info.path for info in infos if info.type != fs.FileType.File]
    if absent:
        raise DatasetError(
            f"{len(absent)} of {len(paths)} shards of {dataset} are not there: {_some(absent)}"
        )
    return infos


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
