"""What files a cache holds, found by listing rather than by asking for each."""

import posixpath
from collections.abc import Collection, Iterator, Sequence

from pyarrow import fs

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import ShardFailure

_DEPTH = 3  # folders below a place in which caches are looked for


def find_caches(place: str) -> list[str]:
    """The folders at a path or URI, and up to three below it, that are caches, complete or not.

    Raises StorageError.
    """
    found: list[str] = []
    folders = [place]
    for _ in range(_DEPTH + 1):
        inner: list[str] = []
        for folder in folders:
            inside = {
                posixpath.basename(storage.path_of(each)): each
                for each in list_files(folder, recursive=False)
            }
            if layout.PLAN in inside or layout.MANIFEST in inside:
                found.append(folder)
                continue
            below = [name for name, each in inside.items() if not each.is_file and name[0] != "."]
            inner += [storage.join(folder, name) for name in below]
        folders = inner
    return sorted(found)


def shard_files(cache: str) -> dict[str, fs.FileInfo]:
    """Shard name -> size and modification time of its file."""
    return dict(_files(cache, "shards", ".parquet"))


def shards_there(cache: str, names: Sequence[str]) -> set[str]:
    """Which of these shards have a file: where they are few, sooner than by listing all.

    Raises StorageError.
    """
    filesystem, root = storage.resolve(storage.join(cache, "shards"))
    try:
        infos = filesystem.get_file_info([f"{root}/{name}.parquet" for name in names])
    except OSError as error:
        raise storage.failure(f"cannot look into {cache}", error) from error
    return {name for name, info in zip(names, infos, strict=True) if info.is_file}


def read_failures(cache: str) -> dict[str, ShardFailure]:
    """Shard name -> its failure, of the shards that could not be read."""
    return {
        name: ShardFailure.read(layout.failure_file(cache, name)) for name in failure_files(cache)
    }


def failure_files(cache: str) -> set[str]:
    """The names of the shards that have one."""
    return {name for name, _ in _files(cache, "failures", ".json")}


def segment_files(cache: str) -> dict[int, str]:
    """Number -> URI of the notes of runs that have not ended, the oldest first."""
    names = (name for name, _ in _files(cache, "segments", ".parquet") if name.isdecimal())
    return {number: layout.segment_file(cache, number) for number in sorted(map(int, names))}


def unknown_files(cache: str, shards: Collection[str], failed: Collection[str]) -> list[str]:
    """List what lies in a cache of these shards and failures and belongs to neither, by path.

    Temporary files are left out: a run may be at work.
    """
    root = storage.resolve(cache)[1]
    known = {
        storage.resolve(uri)[1]
        for uri in (
            *(storage.join(cache, document) for document in layout.DOCUMENTS),
            *(layout.shard_file(cache, name) for name in shards),
            *(layout.failure_file(cache, name) for name in failed),
            *segment_files(cache).values(),
        )
    }
    found = {storage.path_of(info) for info in list_files(cache) if info.is_file} - known
    names = (posixpath.relpath(path, root) for path in found)
    return sorted(
        name.encode(errors="backslashreplace").decode()  # a report must be UTF-8
        for name in names
        if not name.endswith(storage.TEMPORARY)
    )


def _files(cache: str, folder: str, suffix: str) -> Iterator[tuple[str, fs.FileInfo]]:
    """The files below a folder, by their names under it without the suffix."""
    where = storage.join(cache, folder)
    root = storage.resolve(where)[1]
    for info in list_files(where):
        name = posixpath.relpath(storage.path_of(info), root)
        # No shard's name is not UTF-8; such a file is one of the unknown ones.
        if info.is_file and name.endswith(suffix) and storage.is_utf8(name):
            yield name.removesuffix(suffix), info


def list_files(folder: str, *, recursive: bool = True) -> list[fs.FileInfo]:
    """Everything in a folder, its folders too, and below it; nothing where there is none.

    Raises StorageError.
    """
    filesystem, root = storage.resolve(folder)
    try:
        return filesystem.get_file_info(
            fs.FileSelector(root, allow_not_found=True, recursive=recursive)
        )
    except OSError as error:
        raise storage.failure(f"cannot list {folder}", error) from error
