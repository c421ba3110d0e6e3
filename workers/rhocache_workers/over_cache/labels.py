"""The labels of a cache's pairs from a Parquet file."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas import storage
from rhocache_schemas.errors import InvalidDocument, InvalidInput

_COLUMNS = ("shard", "key", "label")


class FileLabels:
    """The labels of a Parquet file with the columns shard, key and label.

    A label is a class's name, or its number in ``names``. Raises InvalidInput where the file can't
    be read or a number is out of range, and InvalidDocument for columns that are missing or of
    other types, and for a pair that comes twice.
    """

    def __init__(self, location: str, names: Sequence[str]) -> None:
        table = _read(location)
        labels: list[Any] = table["label"].to_pylist()
        if pa.types.is_integer(table.schema.field("label").type):
            _check_range(location, labels, names)
            labels = [None if number is None else names[number] for number in labels]
        self.every: list[str | None] = labels
        places = zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True)
        self._by_pair = dict(zip(places, labels, strict=True))
        if len(self._by_pair) < len(labels):
            shards, keys = table["shard"].to_pylist(), table["key"].to_pylist()
            (shard, key), times = Counter(zip(shards, keys, strict=True)).most_common(1)[0]
            raise InvalidDocument(f"{location}: shard {shard}, key {key} comes {times} times")

    def of(self, shard: str, keys: Sequence[str]) -> list[str | None]:
        return [self._by_pair.get((shard, key)) for key in keys]


def _read(location: str) -> pa.Table:
    try:
        filesystem, path = storage.resolve(location)
        with filesystem.open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            there = parquet.schema_arrow.names
            lacking = [name for name in _COLUMNS if name not in there]
            if lacking:
                raise InvalidDocument(
                    f"{location} has no column {', '.join(lacking)}; it has {', '.join(there)}"
                )
            table = parquet.read(list(_COLUMNS), use_threads=False)
    except OSError as error:
        raise InvalidInput(f"cannot read {location}: {storage.reason(error)}") from error
    except pa.ArrowException as error:
        why = " ".join(str(error).split())
        raise InvalidInput(f"{location} is not a readable Parquet file: {why}") from error
    kind = table.schema.field("label").type
    if not (
        pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    ):
        raise InvalidDocument(f"{location}: label is {kind}; it must be a string or an integer")
    return table


def _check_range(location: str, labels: Sequence[int | None], names: Sequence[str]) -> None:
    numbers = np.array([number for number in labels if number is not None], dtype=object)
    outside = Counter(number for number in numbers if not 0 <= number < len(names))
    for number, images in outside.most_common(1):
        raise InvalidInput(
            f"{location}: label {number} of {images} images is out of range: there are "
            f"{len(names)} classes, 0 to {len(names) - 1}"
        )
