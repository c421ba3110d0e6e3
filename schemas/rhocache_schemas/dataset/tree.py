"""Which files lie below a folder: the same for whoever reads a dataset."""

import errno
import os
import posixpath
import stat
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from rhocache_schemas import layout, storage
from rhocache_schemas.errors import DatasetError, StorageError

# What systems and tools leave among data, beside names that begin with a dot: macOS's archives,
# Hadoop's and Delta's unfinished writes, the bins of Windows and of network drives.
_LEFTOVERS = {"__MACOSX", "_temporary", "_delta_log", "$RECYCLE.BIN", "@eaDir"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, or what has a file's name: only opening it tells whether it can be read."""

    name: str  # path under the root
    size: int  # bytes
    mtime_ns: int  # 0 where the storage tells none


def is_hidden(name: str) -> bool:
    """Tell whether a part of a path is no data, such as ``._0.tar`` or ``.Trash-1000/0.tar``."""
    return any(
        part in _LEFTOVERS or (part.startswith(".") and part not in (".", ".."))
        for part in name.split("/")
    )


def list_files(
    root: str, suffixes: tuple[str, ...], check_link: Callable[[str], None] | None = None
) -> list[Entry]:
    """List all files below a local path or URI, in order of their names, but for hidden ones.

    Links are followed, and each folder is listed once: under its own name if it lies below the
    root, else under that of the first link to it. A link to a folder above leads nowhere new.
    ``check_link`` is called with the place of a link to a folder before that is looked into. What
    can't be looked at, such as a link to nothing, is listed where its name ends in one of
    ``suffixes``, in lower case.

    Raises DatasetError where there is no such folder, and for other links to nothing, which may
    have been folders; InvalidInput for a folder, or a file with such a suffix, whose name is not
    UTF-8; and StorageError where a folder can't be listed.
    """
    filesystem, path = storage.resolve(root)
    if isinstance(filesystem, fs.LocalFileSystem):
        entries = _Walk(suffixes, check_link).entries(path)
    else:
        entries = _objects(filesystem, path, root)
    found = sorted(entries, key=lambda entry: entry.name)
    return _without_caches(found)


def _without_caches(entries: list[Entry]) -> list[Entry]:
    """Leave out the files of caches, whose embeddings are no pairs, where they lie among data."""
    caches = [
        entry.name.removesuffix(layout.PLAN)
        for entry in entries
        if posixpath.basename(entry.name) == layout.PLAN
    ]
    files = tuple(f"{cache}{name}" for cache in caches for name in (layout.INDEX, "shards/"))
    return [
        entry
        for entry in entries
        if not (entry.name.startswith(files) and entry.name.endswith(".parquet"))
    ]


def _objects(filesystem: fs.FileSystem, path: str, root: str) -> Iterator[Entry]:
    try:
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetError(f"there is no folder {root}") from error
    except OSError as error:
        raise storage.failure(f"cannot list {root}", error) from error
    for info in infos:
        name = info.path.removeprefix(path).lstrip("/")
        if info.is_file and not is_hidden(name):
            yield Entry(name, info.size, info.mtime_ns or 0)


class _Walk:
    """Goes through a local folder: first all that is really in it, then what links lead to."""

    def __init__(self, suffixes: tuple[str, ...], check_link: Callable[[str], None] | None) -> None:
        self._suffixes = suffixes
        self._check_link = check_link
        self._seen: set[tuple[int, int]] = set()  # folders, by device and inode
        self._folders: list[str] = []  # names under the root, of those still to be listed
        self._links: deque[str] = deque()  # to folders

    def entries(self, root: str) -> Iterator[Entry]:
        try:
            self._seen = {_identity(folder.stat()) for folder in Path(root).resolve().parents}
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DatasetError(f"there is no folder {root}") from error
        except OSError as error:
            raise storage.failure(f"cannot look at {root}", error) from error
        except RuntimeError as error:  # which a loop of links is
            raise StorageError(f"cannot look at {root}: {error}") from error
        self._folders = [""]
        while self._folders or self._links:
            if self._folders:
                name = self._folders.pop()
            else:
                name = self._links.popleft()
                if self._check_link is not None:
                    self._check_link(posixpath.join(root, name))
            yield from self._folder(posixpath.join(root, name), name)

    def _folder(self, place: str, name: str) -> Iterator[Entry]:
        try:
            identity = _identity(Path(place).stat())
            if identity in self._seen:
                return
            self._seen.add(identity)
            with os.scandir(place) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DatasetError(f"there is no folder {place}") from error
        except OSError as error:
            raise storage.failure(f"cannot list {place}", error) from error
        for entry in entries:
            if not is_hidden(entry.name):
                yield from self._entry(entry, posixpath.join(name, entry.name))

    def _entry(self, entry: os.DirEntry[str], name: str) -> Iterator[Entry]:
        try:
            info = entry.stat()
        except OSError as error:
            if entry.name.lower().endswith(self._suffixes):
                yield Entry(name, 0, 0)
            elif error.errno != errno.ENOENT or entry.is_symlink():  # else it has just gone
                raise DatasetError(
                    f"{entry.path} can't be followed ({storage.reason(error)}), and would be left "
                    "out if it is a folder: mend or remove it"
                ) from error
            return
        if stat.S_ISDIR(info.st_mode) or name.lower().endswith(self._suffixes):
            storage.check_utf8(entry.path)
        elif not storage.is_utf8(name):
            return  # a file of no use, which no text could name
        if not stat.S_ISDIR(info.st_mode):
            yield Entry(name, info.st_size, info.st_mtime_ns)
        elif entry.is_symlink():
            if not Path(entry.path).parent.resolve().is_relative_to(os.path.realpath(entry.path)):
                self._links.append(name)
        else:
            self._folders.append(name)


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
