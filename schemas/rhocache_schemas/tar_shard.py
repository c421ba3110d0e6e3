"""Reading the pairs of a WebDataset tar as a stream, never extracting anything.

A pair is a run of members that share a key: the name up to the first dot of its last part, as
webdataset has it. Only regular files with a known suffix are looked at; hidden ones, such as the
``._name`` that macOS adds, are not.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from tarfile import EOFHeaderError  # pyright: ignore
from typing import IO, Self

from pyarrow import NativeFile

from rhocache_schemas import storage
from rhocache_schemas.dataset import Shard
from rhocache_schemas.errors import RowErrorCode, ShardError, ShardErrorCode, StorageError
from rhocache_schemas.limits import DEFAULT_LIMITS, Limits
from rhocache_schemas.pairs import Pair

IMAGE_SUFFIXES = ("jpg", "png", "jpeg", "webp")  # where a key has several, open_clip's order
CAPTION_SUFFIX = "txt"
METADATA_SUFFIX = "json"
SUFFIXES = {*IMAGE_SUFFIXES, CAPTION_SUFFIX, METADATA_SUFFIX}

_EXTENDED_HEADERS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}
_EXTENDED_HEADER_BYTES = 64 << 10
_HEADERS_BYTES = 1 << 20  # of one member, with its extended headers and its sparse map
_READ_BYTES = 1 << 20


class ShardReader:
    """Iterate once over a shard's pairs, all of them, in tar order.

    A pair that can't be used carries its RowErrorCode. After the last pair ``sha256`` holds the
    SHA-256 (hexadecimal) of the whole shard, taken while it streamed by.

    Raises ShardError: tar_truncated where the archive ends or turns to garbage before its
    end-of-archive marker or goes on after it, tar_unordered where no pair's members lie together,
    io_error where the storage fails.
    """

    def __init__(
        self, shard: Shard, caption_field: str | None = None, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.shard = shard
        self.sha256: str | None = None
        self._caption_field = caption_field
        self._limits = limits

    def __iter__(self) -> Iterator[Pair]:
        seen: set[str] = set()
        complete = duplicates = row = 0
        try:
            filesystem, path = storage.resolve(self.shard.uri)
            with filesystem.open_input_stream(path, buffer_size=_READ_BYTES) as stream:
                hashing = _HashingStream(stream)
                for key, members in self._groups(hashing):
                    pair = self._pair(row, key, members, repeated=key in seen)
                    seen.add(key)
                    row += 1
                    complete += pair.image is not None and pair.caption is not None
                    duplicates += pair.error == RowErrorCode.DUPLICATE_KEY
                    yield pair
                self.sha256 = hashing.hexdigest()
        except OSError as error:
            raise self._error(ShardErrorCode.IO_ERROR, storage.reason(error)) from error
        except StorageError as error:  # not even reached
            raise self._error(ShardErrorCode.IO_ERROR, str(error)) from error
        if duplicates and not complete:
            raise self._error(
                ShardErrorCode.TAR_UNORDERED,
                "its members are not grouped by key; sort them by name",
            )

    def _groups(
        self, stream: "_HashingStream"
    ) -> Iterator[tuple[str, dict[str, tuple[tarfile.TarInfo, bytes | None]]]]:
        """Runs of members with one key; a suffix that comes again begins another run."""
        current: str | None = None
        members: dict[str, tuple[tarfile.TarInfo, bytes | None]] = {}
        for info, data in self._members(stream):
            key, suffix = split_name(info.name)
            if current is not None and (key != current or suffix in members):
                yield current, members
                members = {}
            current = key
            if suffix in SUFFIXES:
                members[suffix] = (info, data)
        if current is not None:
            yield current, members

    def _members(self, stream: "_HashingStream") -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
        """Members that may belong to a pair; the data is None where unused or over its cap."""
        try:
            yield from self._regular_files(stream)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # tarfile raises whatever a damaged header leads it to
            raise self._error(
                ShardErrorCode.TAR_TRUNCATED, f"{error} (near byte {stream.position})"
            ) from error

    def _regular_files(
        self, stream: "_HashingStream"
    ) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
        # Names are the same in every locale, and their errors are spelled out: Parquet's strings
        # must be UTF-8.
        archive = tarfile.open(  # noqa: SIM115 (only the stream under it needs closing)
            fileobj=stream, mode="r|", tarinfo=_TarInfo, encoding="utf-8",
            errors="backslashreplace", bufsize=_READ_BYTES,
        )  # fmt: skip
        count = 0
        while (info := archive.next()) is not None:
            stream.header_at = archive.offset  # pyright: ignore
            # tarfile keeps every header otherwise.
            archive.members.clear()  # pyright: ignore
            archive.pax_headers.clear()  # pyright: ignore
            count += 1
            if count > self._limits.members:
                raise tarfile.ReadError(f"more than {self._limits.members} members")
            key, suffix = split_name(info.name)
            hidden = key == "" or key.endswith("/")
            # The last part of the suffix decides, so that a key with dots is still a row.
            relevant = suffix.rpartition(".")[2] in SUFFIXES and not hidden
            if relevant and info.isreg() and not info.issparse():
                yield info, self._data(archive, info, suffix)
        if not getattr(archive, "saw_end_marker", False):
            raise tarfile.ReadError("no end-of-archive marker: truncated or damaged")
        stream.drain(archive.fileobj)  # pyright: ignore

    def _data(self, archive: tarfile.TarFile, info: tarfile.TarInfo, suffix: str) -> bytes | None:
        limits = self._limits
        cap = limits.member_bytes if suffix in IMAGE_SUFFIXES else limits.text_bytes
        file = archive.extractfile(info) if suffix in SUFFIXES and info.size <= cap else None
        return file.read() if file else None

    def _pair(
        self,
        row: int,
        key: str,
        members: dict[str, tuple[tarfile.TarInfo, bytes | None]],
        *,
        repeated: bool,
    ) -> Pair:
        error = RowErrorCode.DUPLICATE_KEY if repeated else None
        image_member = next((members[s] for s in IMAGE_SUFFIXES if s in members), None)
        image = image_member[1] if image_member else None
        if image is None:
            error = error or (
                RowErrorCode.IMAGE_TOO_LARGE if image_member else RowErrorCode.IMAGE_MISSING
            )
        metadata = members.get(METADATA_SUFFIX, (None, None))[1]
        try:
            caption = self._caption(members, metadata)
        except UnicodeError:
            caption = None
            error = error or RowErrorCode.TEXT_NOT_UTF8
        if caption is None or not caption.strip():
            error = error or RowErrorCode.TEXT_MISSING
        return Pair(row, key, image, caption, metadata, error)

    def _caption(
        self,
        members: dict[str, tuple[tarfile.TarInfo, bytes | None]],
        metadata: bytes | None,
    ) -> str | None:
        if self._caption_field is None:
            data = members.get(CAPTION_SUFFIX, (None, None))[1]
            return None if data is None else data.decode()
        try:
            fields = json.loads(metadata or b"null")
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError):  # no JSON, or JSON that is nested too deep
            return None
        caption: object = fields.get(self._caption_field) if isinstance(fields, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if not isinstance(caption, str):
            return None
        caption.encode()  # a lone surrogate, which JSON can spell, has no UTF-8
        return caption

    def _error(self, code: ShardErrorCode, detail: str) -> ShardError:
        return ShardError(code, self.shard.name, detail)


def split_name(name: str) -> tuple[str, str]:
    """Give a member's key and its suffix in lower case: ``a/b.seg.PNG`` is ``a/b``, ``seg.png``."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


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


class _HashingStream(io.BufferedIOBase):
    """Passes reads through, hashes what goes by, and stops tarfile where it would not stop itself.

    ``header_at`` is where the next member's header begins: there is data before it, and only
    headers after it.
    """

    def __init__(self, stream: NativeFile) -> None:
        self._source = stream
        self._sha256 = hashlib.sha256()
        self.position = 0
        self.header_at = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if self.position >= self.header_at + _HEADERS_BYTES:
            raise tarfile.ReadError(f"a member's headers are over {_HEADERS_BYTES} bytes")
        data = self._source.read(size)
        if not data and self.position < self.header_at:
            raise tarfile.ReadError("unexpected end of data")
        self._sha256.update(data)
        self.position += len(data)
        return data

    def drain(self, rest: IO[bytes]) -> None:
        """Read what follows the end-of-archive marker, through tarfile, which holds a part of it.

        Raises tarfile.ReadError where it is more than zeros: pairs would be lost without a word.
        """
        self.header_at = self.position
        while chunk := rest.read(_READ_BYTES):
            if chunk.count(0) < len(chunk):
                raise tarfile.ReadError(
                    "more data after the end-of-archive marker: damaged, or several tars in one"
                )
            self.header_at = self.position

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()
