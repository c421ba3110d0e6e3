"""The files of a folder, on a disk or in an object store, by their names under it."""

import posixpath
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from pyarrow import NativeFile, fs

from rhocache_schemas import storage
from rhocache_schemas.abandonment import keep_on
from rhocache_schemas.dataset.formats.base import CheckPlace
from rhocache_schemas.dataset.pair import DEFAULT_LIMITS
from rhocache_schemas.dataset.tree import Entry, list_files
from rhocache_schemas.errors import RowError, RowErrorCode, StorageError

_resolve = cache(storage.resolve)  # a connection to an object store is made once


class Files:
    """Reads below ``root``, a local path or URI, and nowhere else but where links lead.

    ``check`` is called with each place before it is read: it may be a link.
    """

    def __init__(self, root: str, check: CheckPlace | None = None) -> None:
        self.root = root
        self._check = check

    def list(self, suffixes: tuple[str, ...]) -> list[Entry]:
        """Return all files, in order, but for hidden ones. Raises as list_files."""
        return list_files(self.root, suffixes, self._check)

    def look(self, names: Iterable[str]) -> Mapping[str, Entry]:
        """Return the files with these names that are there. Raises StorageError.

        An object store is asked for all that it has, a page at a time, and not for each.
        """
        filesystem, path = _resolve(self.root)
        if not isinstance(filesystem, fs.LocalFileSystem):
            return {entry.name: entry for entry in self.list(())}
        found: dict[str, Entry] = {}
        for name in names:
            keep_on()
            try:
                info = Path(path, name).stat()
            except (OSError, ValueError):  # reading it tells why
                continue
            found[name] = Entry(name, info.st_size, info.st_mtime_ns)
        return found

    def check(self, names: Iterable[str]) -> None:
        """Check files before a run: each folder, and each that is a link. Raises UriNotAllowed."""
        if self._check is None:
            return
        local = isinstance(_resolve(self.root)[0], fs.LocalFileSystem)
        folders: set[str] = set()
        for name in names:
            place = storage.join(self.root, name)
            if (folder := posixpath.dirname(place)) not in folders:
                folders.add(folder)
                self._check(folder)
            if local and Path(place).is_symlink():
                self._check(place)

    def open(self, name: str) -> NativeFile:
        """Open a file for random access. Raises StorageError and UriNotAllowed."""
        self._check_one(name)
        filesystem, path = _resolve(self.root)
        try:
            return filesystem.open_input_file(posixpath.join(path, name))
        except OSError as error:
            raise self._error(name, error) from error

    def read_image(self, name: str) -> bytes:
        """Return an image file's bytes. Raises RowError: image_missing or image_too_large."""
        return self.read(
            name,
            missing=RowErrorCode.IMAGE_MISSING,
            most=DEFAULT_LIMITS.member_bytes,
            too_large=RowErrorCode.IMAGE_TOO_LARGE,
        )

    def read(self, name: str, missing: RowErrorCode, most: int, too_large: RowErrorCode) -> bytes:
        """Return a file's bytes.

        Raises RowError with the code ``missing``, or ``too_large`` where there are over ``most``,
        StorageError and UriNotAllowed.
        """
        self._check_one(name)
        filesystem, path = _resolve(self.root)
        try:
            with filesystem.open_input_file(posixpath.join(path, name)) as file:
                if file.size() > most:
                    raise RowError(too_large, f"{name} has {file.size()} bytes; at most {most}")
                return file.read()
        except FileNotFoundError as error:
            raise RowError(missing, f"{self.root} has no {name}") from error
        except OSError as error:
            raise self._error(name, error) from error

    def _check_one(self, name: str) -> None:
        if self._check is not None:
            self._check(storage.join(self.root, name))

    def _error(self, name: str, error: OSError) -> StorageError:
        source = storage.join(self.root, name)
        return StorageError(f"cannot read {source}: {storage.reason(error)}")
