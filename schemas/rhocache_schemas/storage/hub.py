"""Data sets of the Hugging Face hub, ``hf://datasets/ORG/NAME[@REVISION][/PATH]``, to be read."""

import io
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from pyarrow import PythonFile, fs

from rhocache_schemas.errors import InvalidInput, MissingExtra

_PARTS = 3  # of a path: datasets, ORG, NAME


def hub(uri: str) -> fs.FileSystem:
    """Return the hub's file system, which takes its address and token from ``HF_ENDPOINT`` and
    ``HF_TOKEN``, as its own tools do.

    Each sees the hub anew: what one has listed it keeps. Raises InvalidInput for a URI that names
    no data set, and MissingExtra.
    """
    parts = uri.partition("://")[2].split("/")
    if parts[0] != "datasets" or len(parts) < _PARTS or not all(parts[:_PARTS]):
        raise InvalidInput(f"{uri!r} names no data set; write hf://datasets/ORG/NAME[/PATH]")
    try:
        from huggingface_hub import HfFileSystem
    except ImportError as error:
        raise MissingExtra(
            f"{uri}: reading hf:// needs huggingface_hub, which rhocache[workers] brings"
        ) from error
    found = HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT"), skip_instance_cache=True)
    return fs.PyFileSystem(_Handler(found))  # pyright: ignore[reportAbstractUsage]


@contextmanager
def _errors() -> Generator[None]:
    """The hub's client raises whatever its HTTP client does: all of it is a failure of storage."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def _told(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(*arguments: Any) -> Any:
        with _errors():
            return method(*arguments)

    return call


class _Handler(fs.FSSpecHandler):
    def __init__(self, files: Any) -> None:
        super().__init__(files)
        self._files = files

    get_file_info = _told(fs.FSSpecHandler.get_file_info)
    get_file_info_selector = _told(fs.FSSpecHandler.get_file_info_selector)

    @_told
    def open_input_stream(self, path: str) -> Any:
        return self.open_input_file(path)

    @_told
    def open_input_file(self, path: str) -> Any:
        if self._files.info(path)["type"] != "file":
            raise FileNotFoundError(path)
        return PythonFile(_File(self._files.open(path, mode="rb")), mode="r")


class _File(io.RawIOBase):
    def __init__(self, file: Any) -> None:
        self._file = file

    @_told
    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()
