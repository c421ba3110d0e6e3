"""Reads a tar as a stream, never extracting anything, and hashes it while it goes by."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from tarfile import EOFHeaderError  # pyright: ignore
from typing import IO, Literal, Self

import pyarrow as pa
from pyarrow import NativeFile

from rhocache_schemas.dataset.pair import Limits
from rhocache_schemas.dataset.tree import is_hidden

Codec = Literal["gzip", "zstd"]

READ_BYTES = 1 << 20
_STEP_BYTES = 32 << 10  # tarfile copies what it still holds of them at each read, however short

_EXTENDED_HEADERS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}
_EXTENDED_HEADER_BYTES = 64 << 10
_HEADERS_BYTES = 1 << 20  # of one member, with its extended headers and its sparse map
_FIRST_BYTES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"PAR1": "Parquet",
}
FIRST = max(map(len, _FIRST_BYTES))


def other_kind(data: bytes) -> str | None:
    """Return the kind of a file that is no tar, by its FIRST bytes, where it is a known one."""
    return next((kind for first, kind in _FIRST_BYTES.items() if data.startswith(first)), None)


class TarStream:
    """Iterate once over a tar's regular files; hidden ones, and those in hidden folders, aside.

    While one is at hand ``read`` returns its content. With a ``codec`` the tar is compressed. At
    the end ``sha256`` holds the SHA-256 (hexadecimal) of the whole file as it is stored, if it was
    to be ``hashed``.

    Raises whatever a damaged header leads tarfile to: tarfile.ReadError where the archive ends
    before its end-of-archive marker or goes on after it, has more members than ``limits`` allow, or
    can't be decompressed within them.
    """

    def __init__(
        self,
        stream: NativeFile,
        limits: Limits,
        codec: Codec | None = None,
        *,
        hashed: bool = True,
    ) -> None:
        self._stored = _Stored(stream, hashed=hashed)
        self._stream = _Watched(
            self._stored if codec is None else _Decompressed(self._stored, codec, limits)
        )
        self._most = limits.members
        self._archive: tarfile.TarFile | None = None
        self.sha256: str | None = None

    @property
    def position(self) -> int:
        """Bytes of the file that were read so far."""
        return self._stored.position

    @property
    def first(self) -> bytes:
        """The first bytes of the file, FIRST of them."""
        return self._stored.first

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        # Names are the same in every locale, and their errors are spelled out: Parquet's strings
        # must be UTF-8.
        archive = self._archive = tarfile.open(  # noqa: SIM115 (only the stream under it needs closing)
            fileobj=self._stream, mode="r|", tarinfo=_TarInfo, encoding="utf-8",
            errors="backslashreplace", bufsize=_STEP_BYTES,
        )  # fmt: skip
        count = 0
        while (info := archive.next()) is not None:
            self._stream.header_at = archive.offset  # pyright: ignore
            # tarfile keeps every header otherwise.
            archive.members.clear()  # pyright: ignore
            archive.pax_headers.clear()  # pyright: ignore
            count += 1
            if count > self._most:
                raise tarfile.ReadError(f"more than {self._most} members")
            if info.isreg() and not info.issparse() and not is_hidden(info.name):
                yield info
        if not getattr(archive, "saw_end_marker", False):
            raise tarfile.ReadError("no end-of-archive marker: truncated or damaged")
        self._stream.drain(archive.fileobj)  # pyright: ignore
        self.sha256 = self._stored.hexdigest()

    def read(self, info: tarfile.TarInfo) -> bytes | None:
        file = None if self._archive is None else self._archive.extractfile(info)
        return file.read() if file else None


class _TarInfo(tarfile.TarInfo):
    """Notes the end-of-archive marker, which tarfile keeps to itself, and caps extended headers."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:
            tarfile.saw_end_marker = True  # pyright: ignore[reportAttributeAccessIssue]
            raise

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _EXTENDED_HEADERS and info.size > _EXTENDED_HEADER_BYTES:
            raise tarfile.ReadError(f"an extended header of {info.size} bytes")
        return info


class _Stored(io.BufferedIOBase):
    """Passes reads of a file through, and hashes what goes by."""

    def __init__(self, stream: NativeFile, *, hashed: bool) -> None:
        self._source = stream
        self._sha256 = hashlib.sha256() if hashed else None
        self.position = 0
        self.first = b""
        self.failed = False  # the storage has

    def readable(self) -> bool:  # which Arrow asks for
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            data = self._source.read(size)
        except OSError:
            self.failed = True
            raise
        if self._sha256 is not None:
            self._sha256.update(data)
        if self.position == 0:
            self.first = data[:FIRST]
        self.position += len(data)
        return data

    def hexdigest(self) -> str | None:
        return None if self._sha256 is None else self._sha256.hexdigest()


class _Decompressed(io.BufferedIOBase):
    """Reads what a compressed file holds, as far as that may be a tar of pairs."""

    def __init__(self, stored: _Stored, codec: Codec, limits: Limits) -> None:
        self._stored = stored
        self._codec = codec
        self._limits = limits
        self._source = pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), codec)
        self._position = 0

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            data = self._source.read(size)
        except OSError as error:
            if self._stored.failed:
                raise
            raise tarfile.ReadError(f"its {self._codec} is cut or damaged: {error}") from error
        self._position += len(data)
        limits = self._limits
        if self._position > limits.member_bytes + limits.expansion * self._stored.position:
            raise tarfile.ReadError(
                f"it decompresses to over {limits.expansion} times its bytes, as no pictures do"
            )
        return data


class _Watched(io.BufferedIOBase):
    """Passes reads of a tar through, and stops tarfile where it would not stop itself.

    ``header_at`` is where the next member's header begins: there is data before it, and only
    headers after it.
    """

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._source = stream
        self._position = 0
        self.header_at = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if self._position >= self.header_at + _HEADERS_BYTES:
            raise tarfile.ReadError(f"a member's headers are over {_HEADERS_BYTES} bytes")
        data = self._source.read(size)
        if not data and self._position < self.header_at:
            raise tarfile.ReadError("unexpected end of data")
        self._position += len(data)
        return data

    def drain(self, rest: IO[bytes]) -> None:
        """Read what follows the end-of-archive marker, through tarfile, which holds a part of it.

        Raises tarfile.ReadError where it is more than zeros: pairs would be lost without a word.
        """
        self.header_at = self._position
        while chunk := rest.read(READ_BYTES):
            if chunk.count(0) < len(chunk):
                raise tarfile.ReadError(
                    "more data after the end-of-archive marker: damaged, or several tars in one"
                )
            self.header_at = self._position
