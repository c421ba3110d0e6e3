"""The pairs that a run's settings name: what kind of dataset they are in, and their cache."""

import posixpath
from fnmatch import fnmatch

from pyarrow import fs

from rhocache_schemas import storage
from rhocache_schemas.dataset import list_shards
from rhocache_schemas.errors import DatasetError, InvalidInput, StorageError
from rhocache_schemas.tar_shard import IMAGE_SUFFIXES, split_name
from rhocache_trainer.cache import KEPT_BYTES, ReferenceCache
from rhocache_trainer.config import Data
from rhocache_trainer.container import KeyedContainer
from rhocache_trainer.files import Files
from rhocache_trainer.folder import ImageFolder
from rhocache_trainer.pairs import CachedPairs, KeyedPairs, PairSource, PlainPairs
from rhocache_trainer.tables import Columns, CsvTable, ParquetTable
from rhocache_trainer.tars import TarShards

PARQUET = ".parquet"


def open_pairs(data: Data, cache: str | None) -> PairSource:
    """The pairs that ``data`` names, joined with the cache at a path or URI if there is one.

    Raises DatasetError and InvalidInput for what ``data`` names, and CacheError's kin.
    """
    kind = _kind(data.dataset) if data.kind == "auto" else data.kind
    if kind == "webdataset":
        tars = TarShards(list_shards(data.dataset, data.shards), data.caption_field)
        if cache is None:
            return PlainPairs(tars)
        return CachedPairs(tars, _open_cache(data, cache), on_missing=data.on_missing)
    if data.caption_field is not None:
        raise InvalidInput(
            f"data.caption_field={data.caption_field} is a field of tar shards' KEY.json, and "
            f"{data.dataset} is {kind}; a table's column is data.caption_column"
        )
    container = _open_keyed(data, kind)
    if cache is None:
        return PlainPairs(container)
    return KeyedPairs(container, _open_cache(data, cache), on_missing=data.on_missing)


def _open_cache(data: Data, cache: str) -> ReferenceCache:
    return ReferenceCache.open(cache, kept_bytes=KEPT_BYTES // max(1, data.workers))


def _open_keyed(data: Data, kind: str) -> KeyedContainer:
    if kind == "parquet":
        root, names = _parquet_files(data)
        return ParquetTable(Files(root), names, _columns(data, "image", "caption"))
    if kind == "csv":
        folder = posixpath.dirname(data.dataset) or "."
        columns = _columns(data, "filepath", "title")  # as open_clip calls them
        return CsvTable(data.dataset, columns, data.images or folder)
    return ImageFolder(data.dataset)


def _columns(data: Data, image: str, caption: str) -> Columns:
    chosen = (data.image_column, data.caption_column, data.key_column, data.shard_column)
    usual = (image, caption, "key", "shard")
    names = [asked or name for asked, name in zip(chosen, usual, strict=True)]
    return Columns(*names, asked=frozenset(filter(None, chosen)))


def _parquet_files(data: Data) -> tuple[str, list[str]]:
    if data.dataset.endswith(PARQUET):
        folder, name = posixpath.split(data.dataset)
        return folder or ".", [name]
    names = [name for name in Files(data.dataset).list() if name.endswith(PARQUET)]
    for name in names:
        storage.check_utf8(name)
    chosen = [name for name in names if data.shards is None or fnmatch(name, data.shards)]
    if not chosen:
        which = "" if data.shards is None else f" that matches {data.shards!r}"
        raise DatasetError(f"{data.dataset} holds no {PARQUET} file{which}")
    return data.dataset, chosen


def _kind(location: str) -> str:
    """Tell a dataset by its suffix, and a folder by what it holds."""
    for suffix, kind in ((PARQUET, "parquet"), (".csv", "csv"), (".tsv", "csv")):
        if location.endswith(suffix):
            return kind
    filesystem, path = storage.resolve(location)
    try:
        if filesystem.get_file_info(path).type != fs.FileType.Directory:
            return "webdataset"
    except OSError as error:
        raise StorageError(f"cannot look at {location}: {storage.reason(error)}") from error
    suffixes = {split_name(name)[1] for name in Files(location).list()}
    if "tar" not in suffixes and PARQUET[1:] in suffixes:
        return "parquet"
    return "folder" if "tar" not in suffixes and suffixes & {*IMAGE_SUFFIXES} else "webdataset"
