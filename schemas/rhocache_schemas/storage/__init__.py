"""Local paths and object stores behind one URI, through ``pyarrow.fs``."""

import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, unquote_to_bytes

from pyarrow import fs

from rhocache_schemas.errors import InvalidInput, RhocacheError, StorageError, UriNotAllowed
from rhocache_schemas.storage.aws import s3_settings
from rhocache_schemas.storage.hub import hub
from rhocache_schemas.text import has_secrets

TEMPORARY = ".tmp"  # suffix of a file that is not committed yet
TEMPORARIES = f".*.????????{TEMPORARY}"  # the names of such files
_COPY_BYTES = 8 << 20
_ATTEMPTS = 6  # at a request of an object store
_CONNECT_SECONDS = 10
_SILENT_SECONDS = 30  # without a byte, before a request counts as failed
_GIVE_UP = timedelta(minutes=2)
_LONGEST_KEY = 1024  # bytes of an object's
# What no other try, and no other state of the storage, would mend.
_THE_PATH_IS_WRONG = (errno.ENAMETOOLONG, errno.ELOOP)
_FILE_URI = re.compile(r"file:(?://(?:localhost)?|(?!//))(/.*)", re.DOTALL)
_ADDRESS = {"endpoint_override", "region", "scheme"}  # what pyarrow's own URIs may hold
# How file systems say that they have no fsync of folders, as some of a network or of FUSE have not.
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EBADF}


def scheme(uri: str) -> str:
    """Return the scheme of a URI, ``file`` for a path.

    Raises InvalidInput for any that is not one of SCHEMES, and for credentials or a store's address
    in the URI.
    """
    name, colon, _ = uri.partition("://")
    if not colon:
        if uri.startswith("pipe:"):
            raise InvalidInput(f"{uri!r}: a pipe is a command, not a location; give a path or URI")
        return "file"
    if name not in SCHEMES:
        raise InvalidInput(f"{uri!r}: scheme {name!r} is not one of {', '.join(SCHEMES)}")
    if has_secrets(uri):  # not told again: logs and plans are kept
        raise InvalidInput(
            f"{name}://***: credentials in a URI end up in logs and plans; set AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, or what the store takes"
        )
    if name != "file" and (told := _ADDRESS & parse_qs(uri.partition("?")[2]).keys()):
        raise InvalidInput(
            f"{uri.partition('?')[0]}?...: {', '.join(sorted(told))} can't be given in a URI; set "
            "AWS_ENDPOINT_URL_S3, AWS_REGION, and what else AWS's SDKs take"
        )
    return name


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URI or local path, and the path inside it.

    Object stores take credentials, region and endpoint from the usual environment variables
    (``AWS_ACCESS_KEY_ID``, ``AWS_REGION``, ``AWS_ENDPOINT_URL_S3``, ...) and AWS's shared files.
    An object's key is what the URI says, letter by letter.

    Raises InvalidInput for a scheme that is not one of SCHEMES, a path that is not UTF-8 or can be
    none, and settings of S3 that make no sense.
    """
    kind, rest = scheme(uri), uri.partition("://")[2]
    if "\0" in uri:
        raise UriNotAllowed(f"{uri!r} has a NUL byte in it")
    if kind == "file":
        path = str(local_path(uri))
        check_utf8(path)
        return fs.LocalFileSystem(), path
    check_utf8(uri)
    bucket = rest.partition("/")[0]
    if not bucket:
        raise InvalidInput(f"{uri!r} names no bucket")
    if len(rest.encode()) - len(bucket) > _LONGEST_KEY and "{" not in rest:
        raise InvalidInput(f"{uri!r} is too long: a key has {_LONGEST_KEY} bytes at most")
    try:
        filesystem = hub(uri) if kind == HUB else _OBJECT_STORES[kind](bucket)
        return filesystem, rest.rstrip("/")
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot reach {uri}: {error}") from error


def local_path(location: str) -> Path:
    """Return a local path, or a ``file:`` URI, as an absolute path.

    A leading ``~`` is a home folder. In a URI percent-encoding is undone; in a path each character
    stands for itself.

    Raises UriNotAllowed for another machine's URI, a user that there is not, and a NUL byte.
    """
    path = location
    if location.startswith("file:/"):
        match = _FILE_URI.fullmatch(location)
        if match is None:
            raise UriNotAllowed(f"{location!r} is not on this machine; write file:///FOLDER")
        path = "/" + os.fsdecode(unquote_to_bytes(os.fsencode(match[1]))).lstrip("/")
    if "\0" in path:
        raise UriNotAllowed(f"{location!r} has a NUL byte in it")
    return Path(expand_home(path)).absolute()


def plain(location: str) -> str:
    """Return a local location as a path that may be relative; leave another URI as it is.

    Raises as local_path does.
    """
    if "://" in location and not location.startswith("file:"):
        return location
    # Without its ./ a path like ./~x would be a home folder.
    given = location.startswith("file:") or str(Path(location)).startswith("~")
    return str(local_path(location)) if given else location


def expand_home(path: str) -> str:
    """Put the home folder in place of a leading ``~`` or ``~USER``.

    Raises UriNotAllowed where there is none.
    """
    expanded = os.path.expanduser(path)  # noqa: PTH111 (pathlib would tidy the rest)
    if path.startswith("~") and expanded == path:
        name = path.partition("/")[0]
        raise UriNotAllowed(
            f"{path!r}: no home folder {name!r}; write ./{name} for a file so named"
        )
    return expanded


def check_utf8(path: str) -> None:
    """Raise InvalidInput for a file's name that no document or Parquet file could hold."""
    if not is_utf8(path):
        raise InvalidInput(f"{path!r} is not UTF-8; rename it")


def is_utf8(path: str) -> bool:
    """Whether a file's name, as ``os.fsdecode`` gives it, is UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def path_of(info: fs.FileInfo) -> str:
    """The path of a listed file, with what is not UTF-8 in it as ``os.fsdecode`` gives it."""
    try:
        return info.path
    except UnicodeDecodeError as error:
        return os.fsdecode(error.object)


def _s3(bucket: str) -> fs.S3FileSystem:
    told = s3_settings()
    if told.endpoint and told.has_keys:  # else the SDK asks AWS what machine this is
        os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    region = told.region
    if not region:  # only AWS itself can be asked for a bucket's region
        region = "us-east-1" if told.endpoint else fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        endpoint_override=told.endpoint,
        region=region,
        tls_ca_file_path=told.ca_bundle,  # pyright: ignore[reportCallIssue]
        force_virtual_addressing=told.virtual_hosts,
        # The SDK's: errors of the server and timeouts, with exponential backoff and jitter.
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_SILENT_SECONDS,
        allow_delayed_open=True,  # pyright: ignore[reportCallIssue] (a small file is one PUT)
    )


def _gs(_: str) -> fs.GcsFileSystem:
    return fs.GcsFileSystem(retry_time_limit=_GIVE_UP)


_OBJECT_STORES: dict[str, Callable[[str], fs.FileSystem]] = {"s3": _s3, "gs": _gs}  # of a bucket
HUB = "hf"  # is read, and not written
SCHEMES = ("file", *_OBJECT_STORES, HUB)


def check_writable(uri: str) -> None:
    """Raises InvalidInput for a place in a store that is only read."""
    if scheme(uri) == HUB:
        raise InvalidInput(f"{uri}: {HUB}:// is only read; choose a folder or bucket to write to")


def join(uri: str, *names: str) -> str:
    """Return the place of ``names`` below a folder: a path where the folder is local."""
    return "/".join((plain(uri).rstrip("/") or "/", *names))


def exists(uri: str) -> bool:
    filesystem, path = resolve(uri)
    try:
        return filesystem.get_file_info(path).type != fs.FileType.NotFound
    except OSError as error:
        raise failure(f"cannot look at {uri}", error) from error


def read_bytes(uri: str) -> bytes:
    filesystem, path = resolve(uri)
    try:
        with filesystem.open_input_file(path) as file:  # which an object store gives in one piece
            return file.read()
    except OSError as error:
        raise failure(f"cannot read {uri}", error) from error


def sha256(uri: str) -> str:
    """Hash a file as it is stored, hexadecimal, without holding it in memory."""
    filesystem, path = resolve(uri)
    digest = hashlib.sha256()
    try:
        with filesystem.open_input_stream(path, compression=None) as stream:
            while data := stream.read(_COPY_BYTES):
                digest.update(data)
    except OSError as error:
        raise failure(f"cannot read {uri}", error) from error
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
        check_writable(uri)
        self._uri = uri
        self._filesystem, self._path = resolve(uri)
        self._folder, _, name = self._path.rpartition("/")
        self._temporary = f"{self._folder}/.{name}.{secrets.token_hex(4)}{TEMPORARY}"
        self._local = scheme(uri) == "file"

    def __enter__(self) -> Self:
        with self._errors():
            if self._local:
                self._filesystem.create_dir(self._folder)
                self._file = self._filesystem.open_output_stream(self._temporary)
            else:
                self._file = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        with self._errors():
            self._file.close()
            if self._local:
                with suppress(FileNotFoundError):
                    self._filesystem.delete_file(self._temporary)

    def write(self, data: bytes, /) -> int:
        with self._errors():
            return self._file.write(data)

    def flush(self) -> None:
        with self._errors():
            self._file.flush()

    def commit(self) -> None:
        with self._errors():
            if self._local:
                self._file.close()
                _sync(self._temporary)
                self._filesystem.move(self._temporary, self._path)
                _sync(self._folder)  # the rename itself must survive a power cut
            else:
                self._file.seek(0)
                with self._filesystem.open_output_stream(self._path) as stream:
                    shutil.copyfileobj(self._file, stream, _COPY_BYTES)

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise failure(f"cannot write {self._uri}", error) from error


def discard_temporaries(uri: str) -> None:
    """Remove what an AtomicFile left in a folder, and below it, when its process was killed."""
    _, path = resolve(uri)
    if scheme(uri) == "file":
        try:
            for file in Path(path).rglob(TEMPORARIES):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise failure(f"cannot clear {uri} of temporary files", error) from error


def delete(uri: str) -> None:
    """Remove one file; nothing happens when it is not there."""
    check_writable(uri)
    if not exists(uri):
        return
    filesystem, path = resolve(uri)
    try:
        filesystem.delete_file(path)
    except OSError as error:
        raise failure(f"cannot delete {uri}", error) from error


def failure(what: str, error: OSError) -> RhocacheError:
    """What to raise for an error of the system: InvalidInput where the path itself is at fault."""
    kind = InvalidInput if error.errno in _THE_PATH_IS_WRONG else StorageError
    return kind(f"{what}: {reason(error)}")


def reason(error: OSError) -> str:
    """The cause without the path, which the message around it already names."""
    return os.strerror(error.errno) if error.errno else str(error)


def _sync(path: str) -> None:
    """Wait until a file, or a folder's list of files, is on the disk.

    Folders of some file systems can't be synced; their servers see to it, or nobody can.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC or not Path(path).is_dir():
            raise
