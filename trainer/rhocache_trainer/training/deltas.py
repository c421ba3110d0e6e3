"""Writes what each pair loses more than its reference does, for choosing pairs by it."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from rhocache_schemas import storage
from rhocache_schemas.dataset.keys import Strings


def write_deltas(
    path: str,
    keys: Iterator[tuple[str, Strings]],
    parts: Sequence[tuple[range, dict[str, Tensor]]],
) -> None:
    """Write a Parquet file of shard, key and the columns of ``parts``, null for NaN.

    ``keys`` and ``parts`` are of the same pairs, in their order.
    """
    parts = sorted(parts, key=lambda part: part[0].start)
    names = parts[0][1]
    values = {name: torch.cat([part[name].cpu() for _, part in parts]) for name in names}
    shards: list[Strings] = []
    every: list[Strings] = []
    for shard, some in keys:
        shards.append(pa.repeat(shard, len(some)))
        every += some.chunks
    columns: dict[str, Any] = {
        "shard": pa.chunked_array(shards, pa.string()),
        "key": pa.chunked_array(every, pa.string()),
    }
    for name, column in values.items():
        columns[name] = pa.chunked_array([pa.array(column.numpy(), from_pandas=True)])
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(list(columns.values()), list(columns)), sink, compression="zstd"
    )
    storage.write_atomic(path, sink.getvalue().to_pybytes())
