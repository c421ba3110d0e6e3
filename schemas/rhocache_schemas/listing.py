"""What files a cache holds, found by listing rather than by asking for each."""

import posixpath
from collections.abc import Iterator

from pyarrow import fs

from rhocache_schemas import layout, storage
from rhocache_schemas.records import ShardFailure


def shard_files(cache: str) -> dict[str, fs.FileInfo]:
    """Shard name -> size and modification time of its file."""
    return dict(_files(cache, "shards", ".parquet"))


def failed_shards(cache: str) -> dict[str, str]:
    """Shard name -> ShardErrorCode, of the shards that the newest run could not read."""
    return {
        name: ShardFailure.read(layout.failure_file(cache, name)).code
        for name in failure_files(cache)
    }


def failure_files(cache: str) -> set[str]:
    """The names of the shards that have one."""
    return {name for name, _ in _files(cache, "failures", ".json")}


def _files(cache: str, folder: str, suffix: str) -> Iterator[tuple[str, fs.FileInfo]]:
    """The files below a folder, by their names under it without the suffix."""
    filesystem, root = storage.resolve(storage.join(cache, folder))
    try:
        infos = filesystem.get_file_info(
            fs.FileSelector(root, recursive=True, allow_not_found=True)
        )
    except OSError as error:
        raise storage.failure(f"cannot list {cache}", error) from error
    for info in infos:
        name = posixpath.relpath(info.path, root)
        if info.is_file and name.endswith(suffix):
            yield name.removesuffix(suffix), info
