"""The dataset formats: which there are, and how a dataset is seen to be of one of them."""

from collections.abc import Iterable

from pyarrow import fs

from rhocache_schemas import storage
from rhocache_schemas.dataset.formats.base import (
    CheckPlace,
    ContentReader,
    Format,
    PairReader,
)
from rhocache_schemas.dataset.formats.csv import CsvTable
from rhocache_schemas.dataset.formats.files import Files
from rhocache_schemas.dataset.formats.image_folder import ImageFolder
from rhocache_schemas.dataset.formats.parquet import ParquetTable
from rhocache_schemas.dataset.formats.webdataset import ShardReader, WebDataset
from rhocache_schemas.dataset.found import Suffixes
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.dataset.source import AUTO, Source
from rhocache_schemas.dataset.tar_stream import READ_BYTES
from rhocache_schemas.errors import DatasetError

# A folder that has a sign of the first is of that kind, whatever lies beside it, such as the
# Parquet in which img2dataset writes what it knows of tars. So is what shows no sign of any.
_FORMATS: tuple[type[Format], ...] = (
    WebDataset,
    ParquetTable,
    CsvTable,
    ImageFolder,
)
FORMATS = {each.kind: each for each in _FORMATS}

_SUFFIXES = tuple(suffix for each in _FORMATS for suffix in each.suffixes) + tuple(
    f".{suffix}" for suffix in Suffixes().all
)


def open_dataset(source: Source, kind: str = AUTO, check: CheckPlace | None = None) -> Format:
    """Open a dataset of a kind, or of the one that it shows to be of.

    ``check`` is the format's. Raises DatasetError and StorageError, and what its format does.
    """
    return FORMATS[_kind_of(source, kind, check)](source, check)


def find_shards(
    source: Source, kind: str, names: Iterable[str], check: CheckPlace | None = None
) -> dict[str, Shard]:
    """Look for shards of a dataset by their names; those that are gone are left out.

    Raises as open_dataset does.
    """
    return FORMATS[_kind_of(source, kind, check)].find(source, names, check)


def read_shard(
    shard: Shard, source: Source, read_bytes: int = READ_BYTES, *, images: bool = True
) -> PairReader:
    """Return what iterates over the pairs of a shard. An object store gives so many bytes of a tar
    a request. Without ``images`` those are not read, and no hash is taken. Raises InvalidInput for
    suffixes that are none."""
    if shard.content is not None:
        return ContentReader(shard, images=images)
    suffixes = Suffixes.of(source)
    return ShardReader(shard, read_bytes=read_bytes, suffixes=suffixes, images=images)


def _kind_of(source: Source, kind: str, check: CheckPlace | None) -> str:
    return find_kind(source.dataset, check) if kind == AUTO else kind


def find_kind(location: str, check: CheckPlace | None = None) -> str:
    """Return the kind of a dataset by its suffix, or by what lies in its folder.

    Raises DatasetError where that may be several, and StorageError.
    """
    for kind, each in FORMATS.items():
        if location.lower().endswith(each.suffixes):
            return kind
    default = _FORMATS[0].kind
    filesystem, path = storage.resolve(location)
    try:
        if filesystem.get_file_info(path).type != fs.FileType.Directory:
            return default
    except OSError as error:
        if "{" in location:  # a pattern may be longer than any path
            return default
        raise storage.failure(f"cannot look at {location}", error) from error
    names = [entry.name for entry in Files(location, check).list(_SUFFIXES)]
    signs = {kind: sign for kind, each in FORMATS.items() if (sign := each.sign(names)) is not None}
    if default in signs or not signs:
        return default
    if len(signs) > 1:
        shown = ", ".join(f"{kind} ({sign})" for kind, sign in signs.items())
        raise DatasetError(
            f"{location} has signs of several kinds, {shown}: say which of them are the pairs, as "
            f"format (--format; in training data.kind), {' or '.join(signs)}"
        )
    return next(iter(signs))
