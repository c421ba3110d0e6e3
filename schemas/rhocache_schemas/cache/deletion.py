"""Deletes a cache or a table: the files that are its own, and no others."""

import os
import posixpath
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.lease import Lease
from rhocache_schemas.cache.listing import list_files
from rhocache_schemas.errors import CacheNotFound

_FOLDERS = {"shards": ".parquet", "failures": ".json", "segments": ".parquet", "files": ""}
_DOCUMENTS = (*layout.DOCUMENTS, *layout.TABLE_DOCUMENTS)
# A folder without any of them is neither a cache nor a table.
_SIGNS = (layout.PLAN, layout.INDEX, layout.MANIFEST, layout.TABLE_PLAN, layout.TABLE)
_AT_ONCE = 16  # requests to an object store


@dataclass(frozen=True, slots=True)
class Contents:
    """The files below a cache's folder."""

    own: dict[str, int]  # name below the folder -> bytes
    foreign: list[str]  # which are not the cache's, and stay

    @property
    def bytes(self) -> int:
        return sum(self.own.values())


def contents(cache: str) -> Contents:
    """Raises CacheNotFound for what is no cache, and StorageError."""
    _check_is_cache(cache)
    root = storage.resolve(cache)[1]
    sizes = {
        posixpath.relpath(storage.path_of(info), root): info.size
        for info in list_files(cache)
        if info.is_file
    }
    sizes.pop(layout.LEASE, None)  # a run's, which takes it away itself
    own = {name: size for name, size in sizes.items() if _is_own(name) and _lies_in(cache, name)}
    return Contents(own, sorted(sizes.keys() - own.keys()))


def delete_cache(cache: str) -> Contents:
    """Delete a cache or a table, complete or not, and return what was in it.

    Cut short at any moment it leaves an incomplete cache, never a manifest that lies; done again,
    it deletes the rest. Its empty folders go too.

    Raises CacheNotFound for what is no cache, CacheBusy while a run is at work on it, and
    StorageError.
    """
    _check_is_cache(cache)  # before a lease is laid where none is
    with Lease(cache, None) as lease:
        found = contents(cache)
        for commit_point in (layout.manifest_file, layout.table_manifest):
            storage.delete(commit_point(cache))
        for folder in ("", *_FOLDERS):
            lease.confirm()
            _delete_files(cache, folder, found)
        lease.confirm()
        # By the last of them the rest is found.
        for name in (
            layout.PROGRESS,
            layout.SUMMARY,
            layout.INDEX,
            layout.TABLE_PLAN,
            layout.PLAN,
        ):
            storage.delete(storage.join(cache, name))
    _remove_folders(cache)
    return found


def _check_is_cache(cache: str) -> None:
    if not any(storage.exists(storage.join(cache, name)) for name in _SIGNS):
        raise CacheNotFound(
            f"there is no cache at {cache}: it has none of {', '.join(_SIGNS)}; nothing is deleted"
        )


def _is_own(name: str) -> bool:
    top, file = _top(name), name.rpartition("/")[2]
    if fnmatchcase(file, storage.TEMPORARIES):  # of a run that was killed
        return not top or top in _FOLDERS
    known = name in _DOCUMENTS or (top in _FOLDERS and file.endswith(_FOLDERS[top]))
    return known and storage.is_utf8(name)


def _delete_files(cache: str, folder: str, found: Contents) -> None:
    """Delete the cache's own files in one of its folders; of the cache's itself not the documents.

    Of an object store a folder goes as a whole, a thousand files a request, where all in it is the
    cache's own.
    """
    filesystem, root = storage.resolve(cache)
    own = [name for name in found.own if _top(name) == folder and name not in _DOCUMENTS]
    whole = folder and not any(_top(name) == folder for name in found.foreign)

    def delete(name: str) -> None:
        with suppress(FileNotFoundError):
            filesystem.delete_file(f"{root}/{name}")

    try:
        if own and whole and storage.scheme(cache) != "file":
            filesystem.delete_dir(f"{root}/{folder}")
            return
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for _ in threads.map(delete, own):
                pass
    except OSError as error:
        raise storage.failure(f"cannot delete the files of {cache}", error) from error


def _top(name: str) -> str:
    """The folder of the cache's that a file is in; nothing for one of the cache's own."""
    return name.partition("/")[0] if "/" in name else ""


def _lies_in(cache: str, name: str) -> bool:
    """Whether a file lies where its name says, and not behind a link."""
    if storage.scheme(cache) != "file":
        return True
    root = storage.local_path(cache).resolve()
    return (root / name).resolve() == root / name


def _remove_folders(cache: str) -> None:
    """Remove the folders that are empty now, the cache's own too, and a store's markers of them."""
    filesystem, root = storage.resolve(cache)
    if storage.scheme(cache) == "file":
        for folder, _, _ in os.walk(root, topdown=False):
            with suppress(OSError):  # it is not empty
                Path(folder).rmdir()
    elif not any(info.is_file for info in list_files(cache)):
        filesystem.delete_dir(root)
