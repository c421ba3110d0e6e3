"""A disk with faults in it, and runs on it in which every step happens in one process."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import fs

from rhocache_schemas import storage
from rhocache_schemas.job.kinds.score import ScoreSpec

if TYPE_CHECKING:
    from rhocache_workers.encode.here import CrewHere

# Around the life of a file: what an AtomicFile does, told with the path that it is for.
STEPS = ("before write", "half-written", "before rename", "after rename")
_SMALL = 64  # bytes: a Parquet file begins with less than would be worth cutting in half

Strike = Callable[[str, str], None]  # of a step and a path; it may kill the process, or raise


class FaultyDisk(fs.FileSystemHandler):
    """The local disk, which tells ``strike`` of each step before it is taken."""

    def __init__(self, strike: Strike) -> None:
        self._disk = fs.LocalFileSystem()
        self._strike = strike

    def install(self) -> None:
        """Let every location of this process be on this disk."""
        resolve = storage.resolve
        storage.resolve = lambda uri: (fs.PyFileSystem(self), resolve(uri)[1])

    def open_output_stream(self, path: str, metadata: dict) -> pa.NativeFile:
        self._strike("before write", _target(path))
        return pa.PythonFile(_Stream(self._disk.open_output_stream(path), path, self._strike), "w")

    def move(self, src: str, dest: str) -> None:
        self._strike("before rename", dest)
        self._disk.move(src, dest)
        self._strike("after rename", dest)

    def delete_file(self, path: str) -> None:
        self._strike("before delete", path)
        self._disk.delete_file(path)
        self._strike("after delete", path)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        self._strike("read", path)
        return self._disk.open_input_stream(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        self._strike("read", path)
        return self._disk.open_input_file(path)

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return self._disk.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        return self._disk.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._disk.create_dir(path, recursive=recursive)

    def get_type_name(self) -> str:
        return "faulty"

    def normalize_path(self, path: str) -> str:
        return path

    def _unused(self, *_: object) -> None:
        raise NotImplementedError

    delete_dir = delete_dir_contents = delete_root_dir_contents = _unused
    copy_file = open_append_stream = _unused


class _Stream:
    closed = False

    def __init__(self, file: pa.NativeFile, path: str, strike: Strike) -> None:
        self._file = file
        self._path = path
        self._strike = strike

    def write(self, data: bytes) -> int:
        half = len(data) // 2 if len(data) > _SMALL else 0
        if half:
            self._file.write(data[:half])
            self._strike("half-written", _target(self._path))
        self._file.write(data[half:])
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        self.closed = True


def _target(temporary: str) -> str:
    """What a temporary file is to become."""
    path = Path(temporary)
    return str(path.with_name(path.name.removeprefix(".").rsplit(".", 2)[0]))


def kill_at(step: str, end: str) -> Strike:
    """SIGKILL, which no handler softens, at a step of the first file whose path ends so."""

    def strike(now: str, path: str) -> None:
        if now == step and path.endswith(end):
            os.kill(os.getpid(), signal.SIGKILL)

    return strike


def crew_here(
    spec: ScoreSpec,
    _: str | None,
    sizes: dict[str, dict[str, int]],
    on_step: Callable[[str], None],
    *,
    here: bool,
) -> "CrewHere":
    """Stand in for ``driver._crew`` where all that is run is to be in this process."""
    from rhocache_workers.encode.here import CrewHere

    return CrewHere(spec, sizes, on_step)
