"""Which pairs a selection names: a select job's table, or a list that somebody else has made."""

# pyarrow's stubs know no masks and no strings beside columns.
# pyright: reportUnknownMemberType=false

from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from rhocache_schemas.dataset.keys import Strings
from rhocache_schemas.errors import InvalidDocument, InvalidInput
from rhocache_schemas.table.pairs_file import KEY, read_pairs_file
from rhocache_schemas.table.reader import TableReader, is_table

pc: Any = pyarrow.compute

SELECTED = "selected"  # the column, of booleans, of a select job's table


class Selection:
    """The keys of the pairs that are selected, by shard. A pair is named by both."""

    def __init__(self, place: str, keys: dict[str, Strings], sha256: str) -> None:
        self.place = place
        self.sha256 = sha256  # of what was read
        self._keys = keys

    @classmethod
    def read(cls, place: str) -> Self:
        """Read the table of a select job, or a Parquet file with the columns shard and key.

        Of a file with a column ``selected`` the rows where it is true count.

        Raises InvalidInput for what is neither, and for one that selects nothing, InvalidDocument
        for columns of other types, and what reading a table raises.
        """
        if is_table(place):
            table = TableReader.open(place)
            table.check_columns([SELECTED])
            sha256, shards = table.manifest.index_sha256, table.columns_of_all([KEY, SELECTED])
        else:
            file = read_pairs_file(place, optional=[SELECTED])
            sha256, shards = file.sha256, file.by_shard.items()
        keys = {shard: _selected(rows, place) for shard, rows in shards}
        if not any(map(len, keys.values())):
            raise InvalidInput(f"{place} selects no pair")
        return cls(place, keys, sha256)

    def has(self, shard: str, keys: Strings) -> npt.NDArray[np.bool_]:
        """Which of these pairs of a shard are selected, [n]."""
        if shard not in self._keys:
            return np.zeros(len(keys), np.bool_)
        return _is_in(keys, self._keys[shard])

    def has_keys(self, keys: Strings) -> npt.NDArray[np.bool_]:
        """Which of these pairs are selected, [n], where no dataset tells their shards.

        Raises InvalidInput where keys alone do not tell the pairs of the selection apart.
        """
        return _is_in(keys, self._distinct)

    @cached_property
    def _distinct(self) -> Strings:
        every: Any = pa.chunked_array(list(self._keys.values()), pa.string()).combine_chunks()
        if pc.count_distinct(every).as_py() < len(every):
            raise InvalidInput(
                f"{self.place} selects pairs of one key in several shards, and the dataset does "
                "not tell each pair's shard: give it a column with it (data.shard_column)"
            )
        return every


def _selected(rows: pa.Table, place: str) -> Strings:
    if SELECTED in rows.column_names:
        selected = rows[SELECTED]
        if not pa.types.is_boolean(selected.type):
            raise InvalidDocument(f"{place}: {SELECTED} is {selected.type}; it must be a boolean")
        rows = rows.filter(selected)
    return rows[KEY].combine_chunks()


def _is_in(keys: Strings, known: Strings) -> npt.NDArray[np.bool_]:
    return pc.is_in(keys.cast(pa.string()), value_set=known).to_numpy(zero_copy_only=False)
