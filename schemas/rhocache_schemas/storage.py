"""Local paths and object stores behind one URI, through ``pyarrow.fs``."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Self

from pyarrow import fs

from rhocache_schemas.errors import InvalidInput, StorageError

SCHEMES = ("file", "s3", "gs")
TEMPORARY = ".tmp"  # suffix of a file that is not committed yet
_COPY_BYTES = 8 << 20
_ATTEMPTS = 6  # at a request of an object store
_GIVE_UP = timedelta(minutes=2)


def scheme(uri: str) -> str:
    """Give the scheme of a URI, ``file`` for a path.

    Raises InvalidInput for any that is not one of SCHEMES.
    """
    name, colon, _ = uri.partition("://")
    if not colon:
        if uri.startswith("pipe:"):
            raise InvalidInput(f"{uri!r}: a pipe is a command, not a location; give a path or URI")
        return "file"
    if name not in SCHEMES:
        raise InvalidInput(f"{uri!r}: scheme {name!r} is not one of {', '.join(SCHEMES)}")
    return name


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """Give the file system of a URI or local path, and the path inside it.

    Object stores take credentials, region and endpoint from the usual environment
    variables (``AWS_ACCESS_KEY_ID``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``, ...).

    Raises InvalidInput for a scheme other than file, s3 and gs.
    """
    kind, rest = scheme(uri), uri.partition("://")[2]
    if kind == "file":
        path = Path("/" + rest.lstrip("/")) if "://" in uri else Path(uri).absolute()
        return fs.LocalFileSystem(), str(path)
    if not rest.partition("/")[0]:
        raise InvalidInput(f"{uri!r} names no bucket")
    try:
        if kind == "s3":
            return _s3(rest.partition("/")[0]), rest.rstrip("/")
        return fs.GcsFileSystem(retry_time_limit=_GIVE_UP), rest.rstrip("/")
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot reach {uri}: {error}") from error


def _s3(bucket: str) -> fs.S3FileSystem:
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:  # only AWS itself can be asked for a bucket's region
        region = "us-east-1" if endpoint else fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region,
        # The SDK's: errors of the server and timeouts, with exponential backoff and jitter.
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        connect_timeout=10,
        request_timeout=30,
    )


def join(uri: str, *names: str) -> str:
    return "/".join((uri.rstrip("/") or "/", *names))


def exists(uri: str) -> bool:
    filesystem, path = resolve(uri)
    try:
        return filesystem.get_file_info(path).type != fs.FileType.NotFound
    except OSError as error:
        raise StorageError(f"cannot look at {uri}: {reason(error)}") from error


def read_bytes(uri: str) -> bytes:
    filesystem, path = resolve(uri)
    try:
        with filesystem.open_input_stream(path) as stream:
            return stream.read()
    except OSError as error:
        raise StorageError(f"cannot read {uri}: {reason(error)}") from error


def sha256(uri: str) -> str:
    """Hash a file, hexadecimal, without holding it in memory."""
    filesystem, path = resolve(uri)
    digest = hashlib.sha256()
    try:
        with filesystem.open_input_stream(path) as stream:
            while data := stream.read(_COPY_BYTES):
                digest.update(data)
    except OSError as error:
        raise StorageError(f"cannot read {uri}: {reason(error)}") from error
    return digest.hexdigest()


def write_atomic(uri: str, data: bytes) -> None:
    """Make ``uri`` hold ``data``, all of it or, on any failure, what it held before.

    Locally: a temporary file beside it, synced, then renamed. In an object store: one PUT.
    """
    with AtomicFile(uri) as target:
        target.write(data)
        target.commit()


class AtomicFile:
    """A file on its way to ``uri``: there whole once it is committed, and until then nowhere.

    Locally: a temporary file beside it, synced, then renamed. For an object store: a temporary
    file on the local disk, then one upload. A context manager, which leaves nothing behind.

    Its methods raise StorageError.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._filesystem, self._path = resolve(uri)

    def __enter__(self) -> Self:
        with self._errors():
            if isinstance(self._filesystem, fs.LocalFileSystem):
                path = Path(self._path)
                path.parent.mkdir(parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(
                    prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent
                )
                self._temporary = Path(name)
                self._file = os.fdopen(handle, "w+b")
            else:
                self._temporary = None
                self._file = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def write(self, data: bytes, /) -> int:
        with self._errors():
            return self._file.write(data)

    def commit(self) -> None:
        with self._errors():
            self._file.flush()
            if self._temporary is None:
                self._file.seek(0)
                with self._filesystem.open_output_stream(self._path) as stream:
                    shutil.copyfileobj(self._file, stream, _COPY_BYTES)
            else:
                os.fsync(self._file.fileno())
                self._temporary.chmod(0o666 & ~_umask())
                self._temporary.replace(self._path)
                _sync_folder(Path(self._path).parent)

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot write {self._uri}: {reason(error)}") from error


def discard_temporaries(uri: str) -> None:
    """Remove what an AtomicFile left in a folder, and below it, when its process was killed."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, fs.LocalFileSystem):
        for file in Path(path).rglob(f".*.????????{TEMPORARY}"):
            file.unlink(missing_ok=True)


def delete(uri: str) -> None:
    """Remove one file; nothing happens when it is not there."""
    if not exists(uri):
        return
    filesystem, path = resolve(uri)
    try:
        filesystem.delete_file(path)
    except OSError as error:
        raise StorageError(f"cannot delete {uri}: {reason(error)}") from error


def reason(error: OSError) -> str:
    """The cause without the path, which the message around it already names."""
    return error.strerror or str(error)


def _sync_folder(folder: Path) -> None:
    """The rename itself must survive a power cut."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
