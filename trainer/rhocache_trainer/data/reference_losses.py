"""A reference's losses of single samples, read from a table and found by the samples' keys."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas import storage
from rhocache_schemas.errors import InvalidDocument, InvalidInput, MissingPair
from rhocache_schemas.table.reader import TableReader, is_table

KEY, SHARD, LOSS = "key", "shard", "loss"  # string, string, floating

Sample = tuple[str | None, str]  # shard, where there are shards with names, and key


def read_losses(location: str, samples: Sequence[Sample]) -> list[float]:
    """Return the loss of each sample from a Parquet file or a table's folder, at a path or URI.

    A table is one that a job over a cache has made, with a column ``loss``; where that is null, it
    has no loss of the sample. A file has the columns ``key`` and ``loss``, and ``shard`` where
    samples of several shards have the same key. Rows may be in any order, and those of other
    samples are passed over. A sample's shard counts where both have one.

    Raises InvalidInput where it can't be read, CacheError for a table that is not complete or is
    damaged, InvalidDocument for a column that is missing, a
    value of another type, a loss that is not finite and a sample that comes twice, and MissingPair
    for samples that it lacks.
    """
    table = _read(location)
    named = all(shard is not None for shard, _ in samples)
    by_shard = named and SHARD in table.column_names
    losses = _by_sample(location, table, by_shard=by_shard)
    asked = list(samples) if by_shard else [(None, key) for _, key in samples]
    missing = [sample for sample in asked if sample not in losses]
    if missing:
        first = "; ".join(map(_told, missing[:3])) + ("; ..." if len(missing) > 3 else "")
        raise MissingPair(
            f"{location} has no loss for {len(missing)} of {len(asked)} samples: {first}"
        )
    sample, times = Counter(asked).most_common(1)[0]
    if times > 1:
        need = f"give {location} a column {SHARD}" if named else "name others with data.key_column"
        raise InvalidInput(f"{times} samples have {_told(sample)}: {need} to tell them apart")
    return [losses[sample] for sample in asked]


def _by_sample(location: str, table: pa.Table, *, by_shard: bool) -> dict[Sample, float]:
    keys, values = table[KEY].to_pylist(), table[LOSS].to_pylist()
    shards = table[SHARD].to_pylist() if by_shard else [None] * len(keys)
    losses: dict[Sample, float] = {}
    for row, (shard, key, loss) in enumerate(zip(shards, keys, values, strict=True)):
        where = f"{location}, row {row}"
        if not isinstance(key, str) or (by_shard and not isinstance(shard, str)):
            raise InvalidDocument(f"{where}: {_told((shard, key))} must be named by strings")
        sample = shard, key
        if not isinstance(loss, float) or not math.isfinite(loss):
            raise InvalidDocument(
                f"{where}: the loss of {_told(sample)} is {loss}; it must be a finite "
                "floating-point number"
            )
        if sample in losses:
            hint = "" if by_shard else f"; with a column {SHARD}, keys of several tars are no clash"
            raise InvalidDocument(f"{where}: {_told(sample)} comes twice{hint}")
        losses[sample] = loss
    return losses


def _read(location: str) -> pa.Table:
    if is_table(location):
        return TableReader.open(location).as_table([LOSS]).drop_null()
    try:
        filesystem, path = storage.resolve(location)
        with filesystem.open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            there = parquet.schema_arrow.names
            wanted = [name for name in (KEY, SHARD, LOSS) if name in there]
            table = parquet.read(wanted, use_threads=False)
    except OSError as error:
        raise InvalidInput(f"cannot read {location}: {storage.reason(error)}") from error
    except pa.ArrowException as error:
        why = " ".join(str(error).split())
        raise InvalidInput(f"{location} is not a readable Parquet file: {why}") from error
    lacking = {KEY, LOSS} - set(there)
    if lacking:
        raise InvalidDocument(
            f"{location} has no column {', '.join(sorted(lacking))}; it has {', '.join(there)}"
        )
    return table


def _told(sample: tuple[Any, Any]) -> str:
    shard, key = sample
    return f"key {key}" if shard is None else f"shard {shard}, key {key}"
