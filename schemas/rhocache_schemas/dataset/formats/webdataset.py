"""WebDataset: tars, each a shard of pairs.

A pair is a run of members that share a key: the name up to the first dot of its last part, as
webdataset has it. Only regular files with a known suffix are looked at; hidden ones, such as the
``._name`` that macOS adds, are not, nor what lies in hidden folders.
"""

import stat
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from pyarrow import NativeFile, fs

from rhocache_schemas import storage
from rhocache_schemas.dataset.formats.base import CheckPlace, Format
from rhocache_schemas.dataset.found import METADATA_SUFFIX, Found, Suffixes, split_name
from rhocache_schemas.dataset.pair import DEFAULT_LIMITS, Limits, Pair
from rhocache_schemas.dataset.shards import (
    SUFFIXES,
    Shard,
    codec_of,
    find_shards,
    is_shard,
    list_shards,
)
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.dataset.tar_stream import FIRST, READ_BYTES, TarStream, other_kind
from rhocache_schemas.errors import (
    DatasetError,
    RowErrorCode,
    ShardError,
    ShardErrorCode,
    StorageError,
)

_TRIED = 5  # shards that are looked at before a run begins, or after it found no usable pair
_DESCRIBED = 1000  # pairs of them

Members = dict[str, tuple[tarfile.TarInfo, bytes | None]]  # of a key, by suffix


class WebDataset(Format):
    """A folder of tars, those that a brace pattern names, or one tar."""

    kind = "webdataset"
    suffixes = SUFFIXES

    def __init__(self, source: Source, check: CheckPlace | None = None) -> None:
        self.shards = list_shards(source.dataset, source.shards, check)
        _check_all(self.shards, check)
        self._suffixes = Suffixes.of(source)

    @classmethod
    def sign(cls, names: Sequence[str]) -> str | None:
        return next((name for name in names if is_shard(name)), None)

    @classmethod
    def find(
        cls, source: Source, names: Iterable[str], check: CheckPlace | None = None
    ) -> dict[str, Shard]:
        found = find_shards(source.dataset, names)
        _check_all(found.values(), check)
        return found

    def read(self, shard: Shard, start: int = 0) -> Iterator[Pair]:
        reader = ShardReader(shard, suffixes=self._suffixes, images=self.images)
        return islice(reader, start, None)

    def check_kind(self) -> None:
        check_shards(self.shards)

    def describe(self) -> str:
        return describe_shards(self.shards, self._suffixes)


def _check_all(shards: Iterable[Shard], check: CheckPlace | None) -> None:
    """A brace pattern, or a link, may lead elsewhere."""
    if check is not None:
        for shard in shards:
            check(shard.uri)


def open_shard(shard: Shard, read_bytes: int = READ_BYTES) -> NativeFile:
    """Open a shard as a stream, of which an object store gives ``read_bytes`` a request.

    Raises OSError, and StorageError for what is no regular file: a named pipe would be waited for.
    """
    filesystem, path = storage.resolve(shard.uri)
    if isinstance(filesystem, fs.LocalFileSystem) and not stat.S_ISREG(Path(path).stat().st_mode):
        raise StorageError(f"{shard.uri} is not a regular file")
    # Arrow would decompress by the name, and nobody could hash what is stored.
    return filesystem.open_input_stream(path, compression=None, buffer_size=read_bytes)


def check_shards(shards: Sequence[Shard]) -> None:
    """See before a run that the first shards are not all of a kind that is no tar, whatever name.

    Raises DatasetError. Any other fault costs its own shard, and is told when that is read.
    """
    kinds: list[str] = []
    for shard in shards[:_TRIED]:
        try:
            with open_shard(shard) as stream:
                kind = other_kind(stream.read(FIRST))
        except (OSError, StorageError):
            return
        if kind is None or kind == codec_of(shard.uri):
            return
        kinds.append(kind)
    if kinds:
        raise DatasetError(
            f"{shards[0].uri} is no tar but {kinds[0]}; a shard is a tar, and a compressed one has "
            "a suffix that says so: .tar.gz or .tar.zst"
        )


class ShardReader:
    """The PairReader of a tar, in its order.

    The SHA-256 is of the whole file as it is stored, taken while it streamed by. ``found`` tells
    which files came by, those of no pair too. ``caption_field`` is for the usual ``suffixes``,
    ``read_bytes`` for open_shard. Without ``images`` they are passed over, and there is no
    ``sha256``.

    Raises ShardError: tar_truncated where the archive ends or turns to garbage before its
    end-of-archive marker or goes on after it, tar_unordered where no pair's members lie together,
    io_error where the storage fails.
    """

    def __init__(
        self,
        shard: Shard,
        caption_field: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
        read_bytes: int = READ_BYTES,
        suffixes: Suffixes | None = None,
        *,
        images: bool = True,
    ) -> None:
        self.shard = shard
        self._images = images
        self._read_bytes = read_bytes
        self.sha256: str | None = None
        self.found = Found()
        self.position = 0  # bytes of the shard that the pairs so far have taken, about
        self._suffixes = suffixes or Suffixes.usual(caption_field)
        self._wanted, self._lasts = self._suffixes.all, self._suffixes.lasts
        self._limits = limits

    def __iter__(self) -> Iterator[Pair]:
        seen: set[str] = set()
        complete = duplicates = row = 0
        try:
            with open_shard(self.shard, self._read_bytes) as stream:
                tar = TarStream(stream, self._limits, codec_of(self.shard.uri), hashed=self._images)
                for key, members in self._groups(tar):
                    self.position = tar.position
                    pair = self._pair(row, key, members, repeated=key in seen)
                    seen.add(key)
                    row += 1
                    has_image = pair.image is not None or not self._images
                    complete += has_image and pair.caption is not None
                    duplicates += pair.error == RowErrorCode.DUPLICATE_KEY
                    yield pair
                self.sha256 = tar.sha256
        except OSError as error:
            raise self._error(ShardErrorCode.IO_ERROR, storage.reason(error)) from error
        except StorageError as error:  # not even reached
            raise self._error(ShardErrorCode.IO_ERROR, str(error)) from error
        if duplicates and not complete:
            raise self._error(
                ShardErrorCode.TAR_UNORDERED,
                "its members are not grouped by key; sort them by name",
            )

    def _groups(self, tar: TarStream) -> Iterator[tuple[str, Members]]:
        """Runs of members with one key; a suffix that comes again begins another run."""
        current: str | None = None
        members: Members = {}
        for info, data in self._members(tar):
            key, suffix = split_name(info.name)
            if current is not None and (key != current or suffix in members):
                yield current, members
                members = {}
            current = key
            if suffix in self._wanted:
                members[suffix] = (info, data)
        if current is not None:
            yield current, members

    def _members(self, tar: TarStream) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
        """Members that may belong to a pair; the data is None where unused or over its cap."""
        try:
            for info in tar:
                _, suffix = split_name(info.name)
                self.found.add(info.name, suffix)
                # The last part of the suffix decides, so that a key with dots is still a row.
                if suffix.rpartition(".")[2] in self._lasts:
                    yield info, self._data(tar, info, suffix)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # tarfile raises whatever a damaged header leads it to
            kind = None if codec_of(self.shard.uri) else other_kind(tar.first)
            why = f"it is no tar but {kind}" if kind else f"{error} (near byte {tar.position})"
            raise self._error(ShardErrorCode.TAR_TRUNCATED, why) from error

    def _data(self, tar: TarStream, info: tarfile.TarInfo, suffix: str) -> bytes | None:
        limits = self._limits
        if suffix in self._suffixes.images and not self._images:
            return None
        cap = limits.member_bytes if suffix in self._suffixes.images else limits.text_bytes
        return tar.read(info) if suffix in self._wanted and info.size <= cap else None

    def _pair(self, row: int, key: str, members: Members, *, repeated: bool) -> Pair:
        error = RowErrorCode.DUPLICATE_KEY if repeated else None
        suffixes = self._suffixes
        image_member = next((members[s] for s in suffixes.images if s in members), None)
        image = image_member[1] if image_member else None
        if image is None and self._images:
            error = error or (
                RowErrorCode.IMAGE_TOO_LARGE if image_member else RowErrorCode.IMAGE_MISSING
            )
        metadata = members.get(METADATA_SUFFIX, (None, None))[1]
        texts = ((s, members[s][1]) for s in suffixes.captions if s in members)
        captions: list[str] = []
        try:
            captions = suffixes.read_captions(texts)
        except UnicodeError:
            error = error or RowErrorCode.TEXT_NOT_UTF8
        if not captions or not captions[0].strip():
            error = error or RowErrorCode.TEXT_MISSING
        if error is not None:
            self.found.add_metadata(metadata)
        pair = Pair(self.shard.name, row, key, image, None, metadata, error, images=self._images)
        return pair.captioned(captions)

    def _error(self, code: ShardErrorCode, detail: str) -> ShardError:
        return ShardError(code, self.shard.name, detail)


def describe_shards(shards: Sequence[Shard], suffixes: Suffixes) -> str:
    """Tell which files lie in shards that have no usable pair, and what a pair would be."""
    for shard in shards[:_TRIED]:
        reader = ShardReader(shard, suffixes=suffixes)
        with suppress(ShardError):
            for _ in islice(reader, _DESCRIBED):
                pass
        if reader.found:
            return f"{shard.name} holds {reader.found.describe(suffixes)}"
    return "the first shards hold no file"
