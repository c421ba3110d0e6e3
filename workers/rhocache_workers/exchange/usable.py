"""The usable rows of a cache, as other layouts have room for them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.vectors import listed


@dataclass(frozen=True, slots=True)
class UsableRows:
    """Of a shard, view 0 and caption 0: embeddings are float32 where a cache has int8."""

    shard: str
    keys: list[str]
    rows: npt.NDArray[np.int32]  # [n], places in the shard
    image: npt.NDArray[np.floating]  # [n, d]
    text: npt.NDArray[np.floating]  # [n, d]
    similarity: npt.NDArray[np.float32]  # [n]

    @property
    def places(self) -> dict[str, Any]:
        """The columns that say which pairs they are, and how alike."""
        return {
            "key": pa.array(self.keys, pa.string()),
            "shard": pa.array([self.shard] * len(self.keys), pa.string()),
            "row": pa.array(self.rows),
            "similarity": pa.array(self.similarity),
        }


def usable_rows(reader: CacheReader) -> Iterator[UsableRows]:
    """Yield the shards that have any, one after another, in the order of the index.

    Raises what reading a cache raises.
    """
    for name in reader.index:
        rows, _ = reader.rows(name)
        ok = np.flatnonzero(rows.ok)
        if len(ok):
            yield UsableRows(
                name,
                [rows.keys[row] for row in ok.tolist()],
                ok.astype(np.int32),
                rows.image[ok, 0],
                rows.text[ok, 0],
                rows.similarity[ok],
            )


def lists(vectors: npt.NDArray[np.floating]) -> Any:
    """A list column of vectors [n, d]."""
    return listed(vectors[:, None], np.ones(len(vectors), np.int64))
