"""Local paths and object stores behind one URI, through ``pyarrow.fs``."""

import os
import tempfile
from pathlib import Path

from pyarrow import fs

from rhocache_schemas.errors import InvalidInput, StorageError

SCHEMES = ("file", "s3", "gs")


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
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if kind == "s3" and endpoint:
        # from_uri would ask AWS itself for the bucket's region, which a private endpoint lacks.
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        return fs.S3FileSystem(endpoint_override=endpoint, region=region), rest.rstrip("/")
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot reach {uri}: {error}") from error
    return filesystem, path


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


def write_atomic(uri: str, data: bytes) -> None:
    """Make ``uri`` hold ``data``, all of it or, on any failure, what it held before.

    Locally: a temporary file beside it, synced, then renamed. In an object store: one PUT.
    """
    filesystem, path = resolve(uri)
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            _write_local(Path(path), data)
        else:
            with filesystem.open_output_stream(path) as stream:
                stream.write(data)
    except OSError as error:
        raise StorageError(f"cannot write {uri}: {reason(error)}") from error


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


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself must survive a power cut
    finally:
        os.close(directory)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
