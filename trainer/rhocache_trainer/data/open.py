"""The pairs that a run's settings name: what kind of dataset they are in, and their cache."""

import posixpath
from collections.abc import Sequence
from fnmatch import fnmatch

from pyarrow import fs

from rhocache_schemas import storage
from rhocache_schemas.dataset.formats.base import KeyedContainer
from rhocache_schemas.dataset.formats.columns import ColumnNames
from rhocache_schemas.dataset.formats.csv import CsvTable
from rhocache_schemas.dataset.formats.files import Files
from rhocache_schemas.dataset.formats.image_folder import ImageFolder
from rhocache_schemas.dataset.formats.parquet import ParquetTable
from rhocache_schemas.dataset.formats.webdataset import describe_shards
from rhocache_schemas.dataset.found import CAPTION_SUFFIX, IMAGE_SUFFIXES, split_name
from rhocache_schemas.dataset.shards import is_shard, list_shards
from rhocache_schemas.errors import DatasetError, InvalidInput, StorageError
from rhocache_trainer.cache.reader import KEPT_BYTES, ReferenceCache
from rhocache_trainer.config import Data
from rhocache_trainer.data.formats.webdataset import TarShards
from rhocache_trainer.data.join import CachedPairs, KeyedPairs, PairSource, PlainPairs

PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".tsv")


def open_pairs(data: Data, cache: str | None) -> PairSource:
    """The pairs that ``data`` names, joined with the cache at a path or URI if there is one.

    Raises DatasetError and InvalidInput for what ``data`` names, and CacheError's kin.
    """
    kind = _kind(data.dataset) if data.kind == "auto" else data.kind
    if kind == "webdataset":
        shards = list_shards(data.dataset, data.shards)
        tars = TarShards(shards, data.caption_field)
        if cache is None:
            pairs = PlainPairs(tars)
            if not pairs.usable:
                raise DatasetError(
                    f"{data.dataset} has no usable pair: "
                    + describe_shards(shards, data.caption_field)
                )
            return pairs
        return CachedPairs(tars, _open_cache(data, cache), on_missing=data.on_missing)
    if data.caption_field is not None and kind != "folder":
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
        columns = _columns(data, ("image", *IMAGE_SUFFIXES), ("caption", CAPTION_SUFFIX, "text"))
        return ParquetTable(Files(root), names, columns)
    if kind == "csv":
        folder = posixpath.dirname(data.dataset) or "."
        columns = _columns(data, ("filepath",), ("title",))  # as open_clip calls them
        return CsvTable(data.dataset, columns, data.images or folder)
    return ImageFolder(data.dataset, data.caption_field)


def _columns(data: Data, image: Sequence[str], caption: Sequence[str]) -> ColumnNames:
    chosen = (data.image_column, data.caption_column, data.key_column, data.shard_column)
    usual = (image, caption, ("key", "__key__"), ("shard",))
    names = [
        usual if asked is None else (asked,) for asked, usual in zip(chosen, usual, strict=True)
    ]
    return ColumnNames(*names, asked=frozenset(name for name in chosen if name is not None))


def _parquet_files(data: Data) -> tuple[str, list[str]]:
    if _is_parquet(data.dataset):
        folder, name = posixpath.split(data.dataset)
        return folder or ".", [name]
    names = [name for name in Files(data.dataset).list() if _is_parquet(name)]
    chosen = [name for name in names if data.shards is None or fnmatch(name, data.shards)]
    if not chosen:
        which = "" if data.shards is None else f" that matches {data.shards!r}"
        raise DatasetError(f"{data.dataset} holds no {PARQUET[0]} file{which}")
    return data.dataset, chosen


def _kind(location: str) -> str:
    """Tell a dataset by its suffix, and a folder by what it holds."""
    for suffixes, kind in ((PARQUET, "parquet"), (_CSV, "csv")):
        if location.lower().endswith(suffixes):
            return kind
    filesystem, path = storage.resolve(location)
    try:
        if filesystem.get_file_info(path).type != fs.FileType.Directory:
            return "webdataset"
    except OSError as error:
        raise StorageError(f"cannot look at {location}: {storage.reason(error)}") from error
    names = Files(location).list()
    if any(is_shard(name) for name in names):
        return "webdataset"  # with Parquet beside tars, as img2dataset writes what it knows of them
    folders = {name.rpartition("/")[0] for name in names}
    tables = [
        name
        for name in names
        if _is_parquet(name) and name.rpartition(".")[0] not in folders  # nor beside its folder
    ]
    images = [name for name in names if split_name(name)[1] in IMAGE_SUFFIXES]
    if tables and images:
        raise DatasetError(
            f"{location} holds both Parquet, such as {tables[0]}, and images, such as {images[0]}: "
            "say with data.kind=parquet or data.kind=folder which of them are the pairs"
        )
    if tables or images:
        return "parquet" if tables else "folder"
    return "webdataset"


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(PARQUET)
