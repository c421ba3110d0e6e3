"""The dataset formats: which there are, and how a dataset is seen to be of one of them."""

from typing import Annotated

from pyarrow import fs
from pydantic import AfterValidator

from rhocache_schemas import storage
from rhocache_schemas.dataset.formats.base import Format, Source
from rhocache_schemas.dataset.formats.csv import CsvTable
from rhocache_schemas.dataset.formats.files import Files
from rhocache_schemas.dataset.formats.image_folder import ImageFolder
from rhocache_schemas.dataset.formats.parquet import ParquetTable
from rhocache_schemas.dataset.formats.webdataset import WebDataset
from rhocache_schemas.dataset.found import PAIR_SUFFIXES
from rhocache_schemas.errors import DatasetError, StorageError

# A folder that has a sign of the first is of that kind, whatever lies beside it, such as the
# Parquet in which img2dataset writes what it knows of tars. So is what shows no sign of any.
_FORMATS: tuple[type[Format], ...] = (
    WebDataset,
    ParquetTable,
    CsvTable,
    ImageFolder,
)
FORMATS = {each.kind: each for each in _FORMATS}
AUTO = "auto"

_SUFFIXES = tuple(suffix for each in _FORMATS for suffix in each.suffixes) + tuple(
    f".{suffix}" for suffix in PAIR_SUFFIXES
)


def _known(kind: str) -> str:
    if kind != AUTO and kind not in FORMATS:
        raise ValueError(f"{kind!r} is none of {', '.join((AUTO, *FORMATS))}")
    return kind


Kind = Annotated[str, AfterValidator(_known)]


def open_dataset(source: Source, kind: str = AUTO) -> Format:
    """Open a dataset of a kind, or of the one that it shows to be of.

    Raises DatasetError and StorageError, and what its format does.
    """
    return FORMATS[find_kind(source.dataset) if kind == AUTO else kind](source)


def find_kind(location: str) -> str:
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
        raise StorageError(f"cannot look at {location}: {storage.reason(error)}") from error
    names = Files(location).list(_SUFFIXES)
    signs = {kind: sign for kind, each in FORMATS.items() if (sign := each.sign(names)) is not None}
    if default in signs or not signs:
        return default
    if len(signs) > 1:
        shown = ", ".join(f"{kind} ({sign})" for kind, sign in signs.items())
        choices = " or ".join(f"data.kind={kind}" for kind in signs)
        raise DatasetError(
            f"{location} has signs of several kinds, {shown}: say with {choices} which of them "
            "are the pairs"
        )
    return next(iter(signs))
