"""Which shards a dataset has: a folder, a brace pattern or one tar; a local path or a URI."""

import errno
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Literal, Protocol

from pyarrow import fs

from rhocache_schemas import storage
from rhocache_schemas.abandonment import keep_on
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.tree import Entry, list_files
from rhocache_schemas.errors import DatasetError, DatasetMismatch
from rhocache_schemas.storage import braces

Codec = Literal["gzip", "zstd"]

SUFFIX = ".tar"
_CODECS: dict[str, Codec] = {
    ".tar.gz": "gzip",
    ".tgz": "gzip",
    ".tar.zst": "zstd",
    ".tar.zstd": "zstd",
    ".tzst": "zstd",
}
SUFFIXES = (SUFFIX, *_CODECS)
# Pairs in containers that are not read as shards: tars of other compressions, or Parquet.
_OTHERS = re.compile(
    r"\.(tar\.(bz2?|xz|lz4|lzma|lzo|br|sz|z|7z|zip)|t[abx]z2?|parquet|pq)$",
    re.IGNORECASE,
)
_LONGEST_NAME = 1024  # bytes of a path that is looked for with its braces, as of an object's key
_AT_ONCE = 1000  # shards that are looked for in one call


class Content(Protocol):
    """What reads a shard that is not a file of its own, without the rest of its dataset.

    Encoders get it with the shard, so that a dataset that changes while they are at work does not
    move pairs from one shard to another.
    """

    def read(self, shard: str, start: int = 0, *, images: bool = True) -> Iterator[Pair]:
        """Yield the pairs of the shard, which has this name; without ``images`` those are not read.

        Raises DatasetError and StorageError.
        """
        ...

    def load(self, pair: Pair) -> Pair:
        """Return a pair with its image and caption, or an error. In any thread.

        Raises StorageError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Shard:
    name: str  # path under the dataset's root: what joins a dataset and a cache
    uri: str  # of its file
    size: int  # bytes; 0 where only reading tells
    mtime_ns: int  # 0 where the storage tells none
    rows: int | None = None  # None where only reading tells
    most: int | None = None  # of its pairs, the first so many are wanted; None: all
    content: Content | None = field(default=None, compare=False, repr=False)  # None: a tar

    def differs(self, size: int, rows: int) -> bool:
        """Tell whether it surely is not what it was with this size and so many pairs.

        Only a tar's size is that of all its bytes.
        """
        return size != self.size if self.content is None else rows != self.rows


def list_shards(
    dataset: str, pattern: str | None = None, check_link: Callable[[str], None] | None = None
) -> list[Shard]:
    """List a dataset's shards in order of their names.

    A folder gives every tar below it that is not hidden (see list_files, which gets
    ``check_link``), compressed ones (SUFFIXES) where no plain one of the same name lies beside
    them; ``pattern`` is a glob that their names must match. The root of a brace pattern
    is the folder before its first brace, that of one tar its folder. Braces in the name of a folder
    or tar that is there stand for themselves. A shard that can't be opened is listed too: reading
    it tells why.

    Raises DatasetError when there is nothing there, nothing matches, or pairs would be left out:
    those of tars of other compressions and Parquet files without a tar of the same name beside
    them;
    InvalidInput for a brace pattern that stands for more names than braces.MOST, and for a shard
    whose name is not UTF-8; and StorageError.
    """
    filesystem, path = storage.resolve(dataset)
    try:
        literal = _literal(filesystem, path)
        if literal == path:
            root, entries = _walk(filesystem, path, dataset, check_link)
        else:
            root = _root_of_pattern(path, literal)
            infos = _expand(filesystem, literal, path[len(literal) :], dataset)
            entries = [_entry(info, root) for info in infos]
    except OSError as error:
        raise storage.failure(f"cannot list {dataset}", error) from error
    _check_others(dataset, [entry.name for entry in entries], pattern)
    plain = {_stem(entry.name) for entry in entries if entry.name.lower().endswith(SUFFIX)}
    shards = [
        _shard(entry, root, dataset)
        for entry in entries
        if root != path  # what is named itself may have any name
        or (is_shard(entry.name) and not (codec_of(entry.name) and _stem(entry.name) in plain))
    ]
    chosen = [shard for shard in shards if pattern is None or fnmatch(shard.name, pattern)]
    if not chosen:
        raise DatasetError(
            f"no shard of {dataset} matches {pattern!r}; it has {_some(s.name for s in shards)}"
            if shards
            else f"{dataset} holds no {SUFFIX} file; it has "
            + (_some(entry.name for entry in entries) or "no file at all")
        )
    return sorted(chosen, key=lambda shard: shard.name)


def find_shards(dataset: str, names: Iterable[str]) -> dict[str, Shard]:
    """Look for shards by their names under a dataset's root; those that are gone are left out.

    Raises StorageError.
    """
    filesystem, path = storage.resolve(dataset)
    try:
        root = _root(filesystem, path)
        infos = filesystem.get_file_info([posixpath.join(root, name) for name in names])
    except OSError as error:
        raise storage.failure(f"cannot look into {dataset}", error) from error
    found = [_entry(info, root) for info in infos if info.type == fs.FileType.File]
    return {entry.name: _shard(entry, root, dataset) for entry in found}


def dataset_root(dataset: str) -> str:
    """Name the folder that shard names are relative to: equal for all patterns of one dataset.

    Raises StorageError.
    """
    filesystem, path = storage.resolve(dataset)
    try:
        return _prefix(dataset) + _root(filesystem, path)
    except OSError as error:
        raise storage.failure(f"cannot look at {dataset}", error) from error


def check_same_dataset(
    cache: str,
    begun_for: str,
    dataset: str,
    *,
    same: int,
    changed: int,
    gone: int = 0,
    unknown: int = 0,
) -> None:
    """Refuse another dataset for a cache, by the number of the cache's shards that are there.

    Data may move, so its path does not tell: the names of its shards and their contents do. A
    dataset that has grown has all of the cache's shards and more; one that has shrunk lacks some,
    whose rows stay; and some of them may have changed. Where most have, it is another.

    ``same`` have the contents that were scored, ``changed`` have others, ``gone`` are not in the
    dataset, and ``unknown`` could not be compared.

    Raises DatasetMismatch.
    """
    if changed > same or (gone and not same and not unknown):
        count = same + changed + gone + unknown
        raise DatasetMismatch(
            f"{cache} holds {begun_for}, and {dataset} is another dataset: of the cache's {count} "
            f"shards, {same} are the same there, {changed} have other contents and {gone} are not "
            "there. Use another output; or, to give up what the cache holds for this dataset, "
            "--replace (`replace` over REST)"
        )


def is_shard(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def codec_of(name: str) -> Codec | None:
    """Return how a tar is compressed, by its name, as Arrow calls it."""
    return next((codec for end, codec in _CODECS.items() if name.lower().endswith(end)), None)


def _stem(name: str) -> str:
    """A tar's name without its suffix."""
    suffix = next(each for each in SUFFIXES if name.lower().endswith(each))
    return name[: -len(suffix)]


def _root(filesystem: fs.FileSystem, path: str) -> str:
    literal = _literal(filesystem, path)
    if literal != path:
        return _root_of_pattern(path, literal)
    return posixpath.dirname(path) if filesystem.get_file_info(path).is_file else path


def _root_of_pattern(path: str, literal: str) -> str:
    return posixpath.dirname(literal + path[len(literal) :].partition("{")[0])


def _entry(info: fs.FileInfo, root: str) -> Entry:
    storage.check_utf8(path := storage.path_of(info))
    return Entry(posixpath.relpath(path, root), info.size, info.mtime_ns or 0)


def _shard(entry: Entry, root: str, dataset: str) -> Shard:
    uri = _prefix(dataset) + posixpath.join(root, entry.name)
    return Shard(entry.name, uri, entry.size, entry.mtime_ns)


def _prefix(dataset: str) -> str:
    """What a shard's URI has before its path, which a local one is without."""
    kind = storage.scheme(dataset)
    return "" if kind == "file" else f"{kind}://"


def _walk(
    filesystem: fs.FileSystem, path: str, dataset: str, check_link: Callable[[str], None] | None
) -> tuple[str, list[Entry]]:
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise DatasetError(f"no dataset at {dataset}: give a folder, a brace pattern or a tar file")
    if info.type == fs.FileType.Unknown:
        raise DatasetError(f"{dataset} is neither a folder nor a regular file")
    if info.type == fs.FileType.File:
        root = posixpath.dirname(path)
        return root, [_entry(info, root)]
    return path, list_files(dataset, SUFFIXES, check_link)


def check_size(dataset: str) -> None:
    """Raises InvalidInput for a brace pattern that stands for more shards than braces.MOST."""
    filesystem, path = storage.resolve(dataset)
    try:
        braces.check(path.removeprefix(_literal(filesystem, path)))
    except OSError as error:
        raise storage.failure(f"cannot look into {dataset}", error) from error


def _literal(filesystem: fs.FileSystem, path: str) -> str:
    """The beginning of a path, up to a slash, that is there by its very name or has no brace."""
    if "{" not in path:
        return path
    literal = posixpath.dirname(path.partition("{")[0])
    while literal != path:
        longer = path[: (path + "/").find("/", len(literal) + 1)]
        if not _is_there(filesystem, longer):
            break
        literal = longer
    return literal


def _is_there(filesystem: fs.FileSystem, path: str) -> bool:
    """Whether a path with braces is there by its very name, which a long pattern never is."""
    if len(path.encode()) > _LONGEST_NAME:
        return False
    try:
        return filesystem.get_file_info(path).type != fs.FileType.NotFound
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _expand(filesystem: fs.FileSystem, folder: str, names: str, dataset: str) -> list[fs.FileInfo]:
    paths, found = braces.expand(names), list[fs.FileInfo]()
    for start in range(0, len(paths), _AT_ONCE):
        keep_on()
        infos = filesystem.get_file_info([folder + n for n in paths[start : start + _AT_ONCE]])
        absent = [info.path for info in infos if info.type != fs.FileType.File]
        if absent:  # a few that are not there are enough to know: the rest is not asked for
            looked = f"the first {start + len(infos):,} of " if len(infos) < len(paths) else ""
            raise DatasetError(
                f"{len(absent)} of {looked}{len(paths):,} shards of {dataset} are not there: "
                f"{_some(absent)}"
            )
        found += infos
    return found


def _check_others(dataset: str, names: list[str], pattern: str | None) -> None:
    """Refuse a dataset of which a part would be left out without a word."""
    tars = {_stem(name) for name in names if is_shard(name)}
    others = [
        name
        for name in names
        if (suffix := _OTHERS.search(name))
        and name[: suffix.start()] not in tars  # a tar's own metadata, or what it was unpacked from
        and (pattern is None or fnmatch(name, pattern))
    ]
    if others:
        raise DatasetError(
            f"{dataset}: {_some(others)} can't be read as shards, which are {', '.join(SUFFIXES)} "
            "files: score Parquet apart; where these hold no pairs, choose the others by a glob "
            f"for shards, such as '*{SUFFIX}'"
        )


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
