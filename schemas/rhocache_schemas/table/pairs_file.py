"""A Parquet file that says something of pairs, by shard and key, whoever has made it."""

# pyarrow's stubs leave the parameters of its generic types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from rhocache_schemas import storage
from rhocache_schemas.errors import InvalidDocument, InvalidInput

pc: Any = pyarrow.compute  # whose stubs know no strings beside columns

SHARD, KEY = "shard", "key"


@dataclass(frozen=True, slots=True)
class PairsFile:
    sha256: str
    by_shard: dict[str, pa.Table]  # the key, a string, and the columns that were asked for


def read_pairs_file(
    place: str, columns: Sequence[str] = (), optional: Sequence[str] = ()
) -> PairsFile:
    """Read the columns shard and key, others, and those of ``optional`` that there are.

    Raises InvalidInput for what is no Parquet file, InvalidDocument for columns that it lacks, for
    shards and keys that are no strings, and for a pair that comes twice, and StorageError.
    """
    data = storage.read_bytes(place)
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            there = file.schema_arrow.names
            needed = [SHARD, KEY, *columns]
            wanted = [*needed, *(name for name in optional if name in there)]
            rows = file.read([name for name in wanted if name in there], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split())
        raise InvalidInput(f"{place} is no table and no readable Parquet file: {why}") from error
    if lacking := [name for name in needed if name not in there]:
        has = ", ".join(there)
        raise InvalidDocument(f"{place} has no column {', '.join(lacking)}; it has {has}")
    return PairsFile(hashlib.sha256(data).hexdigest(), _by_shard(rows, place))


def _by_shard(rows: pa.Table, place: str) -> dict[str, pa.Table]:
    for name in (SHARD, KEY):
        column = rows[name]
        strings = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
        if column.null_count or not any(is_string(column.type) for is_string in strings):
            raise InvalidDocument(f"{place}: the column {name} must have a string in each row")
        rows = rows.set_column(rows.schema.get_field_index(name), name, column.cast(pa.string()))
    shards: Any = rows[SHARD].combine_chunks().dictionary_encode()
    rows = rows.drop_columns([SHARD]).take(pc.sort_indices(shards.indices))
    names = shards.dictionary.to_pylist()
    counts = np.bincount(shards.indices.to_numpy(), minlength=len(names)).tolist()
    found: dict[str, pa.Table] = {}
    first = 0
    for name, count in zip(names, counts, strict=True):
        found[name] = part = rows.slice(first, count).combine_chunks()
        first += count
        if pc.count_distinct(part[KEY]).as_py() < count:
            twice = pc.value_counts(part[KEY])
            key = twice.field("values").filter(pc.greater(twice.field("counts"), 1))[0]
            raise InvalidDocument(f"{place}: shard {name}, key {key} comes twice")
    return found
