"""Reading the pairs of a WebDataset tar as a stream, never extracting anything.

A pair is a run of members that share a key: the name up to the first dot of its last part, as
webdataset has it. Only regular files with a known suffix are looked at; hidden ones, such as the
``._name`` that macOS adds, are not, nor what lies in hidden folders.
"""

import hashlib
import io
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from tarfile import EOFHeaderError  # pyright: ignore
from typing import IO, Self

from pyarrow import NativeFile, fs

from rhocache_schemas import storage
from rhocache_schemas.dataset.found import (
    CAPTION_SUFFIX,
    IMAGE_SUFFIXES,
    METADATA_SUFFIX,
    Found,
    split_name,
)
from rhocache_schemas.dataset.limits import DEFAULT_LIMITS, Limits
from rhocache_schemas.dataset.pair import Pair, read_caption
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.dataset.tree import is_hidden
from rhocache_schemas.errors import (
    DatasetError,
    RowErrorCode,
    ShardError,
    ShardErrorCode,
    StorageError,
)

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
_FIRST = max(map(len, _FIRST_BYTES))
_TRIED = 5  # shards that are looked at before a run begins, or after it found no usable pair
_DESCRIBED = 1000  # pairs of them


def open_shard(shard: Shard) -> NativeFile:
    """Open a shard as a stream.

    Raises OSError, and StorageError for what is no regular file: a named pipe would be waited for.
    """
    filesystem, path = storage.resolve(shard.uri)
    if isinstance(filesystem, fs.LocalFileSystem) and not stat.S_ISREG(Path(path).stat().st_mode):
        raise StorageError(f"{shard.uri} is not a regular file")
    return filesystem.open_input_stream(path, buffer_size=_READ_BYTES)


def check_shards(shards: Sequence[Shard]) -> None:
    """See before a run that the first shards are not all of a kind that is no tar, whatever name.

    Raises DatasetError. Any other fault costs its own shard, and is told when that is read.
    """
    kinds: list[str] = []
    for shard in shards[:_TRIED]:
        try:
            with open_shard(shard) as stream:
                kind = _kind(stream.read(_FIRST))
        except (OSError, StorageError):
            return
        if kind is None:
            return
        kinds.append(kind)
    if kinds:
        raise DatasetError(f"{shards[0].uri} is no tar but {kinds[0]}; shards are plain tar files")


def _kind(data: bytes) -> str | None:
    """The kind of a file that is no tar, by its first bytes, where it is a known one."""
    return next((kind for first, kind in _FIRST_BYTES.items() if data.startswith(first)), None)


class ShardReader:
    """Iterate once over a shard's pairs, all of them, in tar order.

    A pair that can't be used carries its RowErrorCode. After the last pair ``sha256`` holds the
    SHA-256 (hexadecimal) of the whole shard, taken while it streamed by. ``found`` tells which
    files came by, those of no pair too.

    Raises ShardError: tar_truncated where the archive ends or turns to garbage before its
    end-of-archive marker or goes on after it, tar_unordered where no pair's members lie together,
    io_error where the storage fails.
    """

    def __init__(
        self, shard: Shard, caption_field: str | None = None, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.shard = shard
        self.sha256: str | None = None
        self.found = Found()
        self._caption_field = caption_field
        self._limits = limits

    def __iter__(self) -> Iterator[Pair]:
        seen: set[str] = set()
        complete = duplicates = row = 0
        try:
            with open_shard(self.shard) as stream:
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
            kind = _kind(stream.first)
            why = f"it is no tar but {kind}" if kind else f"{error} (near byte {stream.position})"
            raise self._error(ShardErrorCode.TAR_TRUNCATED, why) from error

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
            if is_hidden(info.name) or not info.isreg() or info.issparse():
                continue
            _, suffix = split_name(info.name)
            self.found.add(info.name, suffix)
            # The last part of the suffix decides, so that a key with dots is still a row.
            if suffix.rpartition(".")[2] in SUFFIXES:
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
            text = members.get(CAPTION_SUFFIX, (None, None))[1]
            caption = read_caption(text, metadata, self._caption_field)
        except UnicodeError:
            caption = None
            error = error or RowErrorCode.TEXT_NOT_UTF8
        if caption is None or not caption.strip():
            error = error or RowErrorCode.TEXT_MISSING
        if error is not None:
            self.found.add_metadata(metadata)
        return Pair(row, key, image, caption, metadata, error)

    def _error(self, code: ShardErrorCode, detail: str) -> ShardError:
        return ShardError(code, self.shard.name, detail)


def describe_shards(shards: Sequence[Shard], caption_field: str | None) -> str:
    """Tell which files lie in shards that have no usable pair, and what a pair would be."""
    for shard in shards[:_TRIED]:
        reader = ShardReader(shard, caption_field)
        with suppress(ShardError):
            for _ in islice(reader, _DESCRIBED):
                pass
        if reader.found:
            return f"{shard.name} holds {reader.found.describe(caption_field)}"
    return "the first shards hold no file"


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
        self.first = b""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.position >= self.header_at + _HEADERS_BYTES:
            raise tarfile.ReadError(f"a member's headers are over {_HEADERS_BYTES} bytes")
        data = self._source.read(size)
        if not data and self.position < self.header_at:
            raise tarfile.ReadError("unexpected end of data")
        self._sha256.update(data)
        if self.position == 0:
            self.first = data[:_FIRST]
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
