"""Deletes a cache: the files that are a cache's own, and no others."""

import os
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.lease import Lease
from rhocache_schemas.cache.listing import list_files
from rhocache_schemas.errors import CacheNotFound

_FOLDERS = {"shards": ".parquet", "failures": ".json", "segments": ".parquet"}
_SIGNS = (layout.PLAN, layout.INDEX, layout.MANIFEST)  # a folder without any of them is no cache
_AT_ONCE = 16  # requests to an object store
_CONFIRM_EVERY = 1000  # files


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
    root = storage.resolve(cache)[1]
    sizes = {
        posixpath.relpath(storage.path_of(info), root): info.size
        for info in list_files(cache)
        if info.is_file
    }
    sizes.pop(layout.LEASE, None)  # a run's, which takes it away itself
    if not any(name in sizes for name in _SIGNS):
        raise CacheNotFound(
            f"there is no cache at {cache}: it has none of {', '.join(_SIGNS)}; nothing is deleted"
        )
    own = {name: size for name, size in sizes.items() if _is_own(name) and _lies_in(cache, name)}
    return Contents(own, sorted(sizes.keys() - own.keys()))


def delete_cache(cache: str) -> Contents:
    """Delete a cache, complete or not, and return what was in it.

    Cut short at any moment it leaves an incomplete cache, never a manifest that lies; done again,
    it deletes the rest. Its empty folders go too.

    Raises CacheNotFound for what is no cache, CacheBusy while a run is at work on it, and
    StorageError.
    """
    contents(cache)  # before a lease is laid where no cache is
    with Lease(cache, None) as lease:
        found = contents(cache)
        storage.delete(layout.manifest_file(cache))
        names = [name for name in found.own if name not in layout.DOCUMENTS]
        for start in range(0, len(names), _CONFIRM_EVERY):
            lease.confirm()
            _delete(cache, names[start : start + _CONFIRM_EVERY])
        lease.confirm()
        for name in (layout.PROGRESS, layout.INDEX, layout.PLAN):  # by which the rest is found
            storage.delete(storage.join(cache, name))
    _remove_folders(cache)
    return found


def _is_own(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    top = folder.partition("/")[0]
    if fnmatchcase(file, storage.TEMPORARIES):  # of a run that was killed
        return not top or top in _FOLDERS
    known = name in layout.DOCUMENTS or (top in _FOLDERS and file.endswith(_FOLDERS[top]))
    return known and storage.is_utf8(name)


def _delete(cache: str, names: Iterable[str]) -> None:
    filesystem, root = storage.resolve(cache)

    def delete(name: str) -> None:
        try:
            filesystem.delete_file(f"{root}/{name}")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise storage.failure(f"cannot delete {name} of {cache}", error) from error

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for _ in threads.map(delete, names):
            pass


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
