"""The files of a folder, on a disk or in an object store, by their names under it."""

import posixpath
from functools import cache

from pyarrow import NativeFile

from rhocache_schemas import storage
from rhocache_schemas.dataset.pair import DEFAULT_LIMITS
from rhocache_schemas.dataset.tree import list_files
from rhocache_schemas.errors import RowError, RowErrorCode, StorageError

_resolve = cache(storage.resolve)  # a connection to an object store is made once


class Files:
    """Reads below ``root``, a local path or URI, and nowhere else."""

    def __init__(self, root: str) -> None:
        self.root = root

    def list(self, suffixes: tuple[str, ...]) -> list[str]:
        """Return the names of all files, in order, but for hidden ones. Raises as list_files."""
        return [entry.name for entry in list_files(self.root, suffixes)]

    def open(self, name: str) -> NativeFile:
        """Open a file for random access. Raises StorageError."""
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

        Raises RowError with the code ``missing``, or ``too_large`` where there are over ``most``.
        """
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

    def _error(self, name: str, error: OSError) -> StorageError:
        source = storage.join(self.root, name)
        return StorageError(f"cannot read {source}: {storage.reason(error)}")
