"""Puts near pairs into groups, and sums up what was found, a shard at a time."""

import heapq
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.table.documents import Sample, Value
from rhocache_workers.over_cache.names import NAMES, at
from rhocache_workers.over_cache.neighbours.groups import Components

_SCHEMA = NAMES.append(pa.field("group", pa.int64()))

_NEAREST = 24  # pairs of pairs that are shown
_GROUPS, _MEMBERS = 12, 8  # groups, the largest first, and members of each

Place = tuple[str, str, int]  # shard, key and row


class Grouping:
    """Takes the rows of each shard's file. Its numbers are those of all rows of the cache."""

    def __init__(self, cache: CacheReader) -> None:
        self._cache = cache
        self._shards = list(cache.index)
        self._firsts = np.cumsum([0, *(row.rows for row in cache.index.values())])[:-1]
        self._first = dict(zip(self._shards, self._firsts.tolist(), strict=True))
        self._components = Components(cache.manifest.rows)
        self._near = 0  # pairs that have a neighbour
        self._nearest: dict[tuple[Place, Place], float] = {}

    def add(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        lists: Any = table["neighbours"].combine_chunks()
        counts = lists.value_lengths().fill_null(0).to_numpy()
        others = lists.flatten()
        own = self._first[str(table["shard"][0])] + table["row"].to_numpy()
        shards = others.field("shard").dictionary_encode()
        firsts = np.array([self._first[name] for name in shards.dictionary.to_pylist()], np.int64)
        other = firsts[shards.indices.to_numpy()] + others.field("row").to_numpy()
        self._components.join(np.repeat(own, counts), other)
        self._near += int((counts > 0).sum())
        self._look(table)

    def _look(self, table: pa.Table) -> None:
        """Keep the nearest pairs of all, each once."""
        values = table["nearest"].to_numpy()
        most = np.argsort(-values, kind="stable")[:_NEAREST]  # what is no number comes last
        for row in table.take(at(most[~np.isnan(values[most])])).to_pylist():
            other = row["neighbours"][0]
            ends = sorted([_place(row), _place(other)])
            self._nearest[ends[0], ends[1]] = other["similarity"]
        nearest = heapq.nsmallest(_NEAREST, self._nearest.items(), key=lambda each: -each[1])
        self._nearest = dict(nearest)

    def groups(self) -> pa.Table:
        """Return shard, key, row and group of each pair that is in one, by group, from 0 on.

        Raises CacheError and StorageError.
        """
        members, group = self._components.groups()
        return self._named(members).append_column("group", pa.array(group)).cast(_SCHEMA)

    def facts(self, *, grouped: bool) -> dict[str, Value]:
        found: dict[str, Value] = {"with neighbours": self._near}
        if grouped:
            sizes = np.bincount(self._components.groups()[1])
            found |= {
                "groups": len(sizes),
                "in groups": int(sizes.sum()),
                "largest group": int(sizes.max(initial=0)),
                "near-duplicates": int(sizes.sum()) - len(sizes),  # beside one of each group
            }
        return found

    def samples(self, *, grouped: bool) -> list[Sample]:
        """The nearest pairs, and the largest groups. Raises CacheError and StorageError."""
        columns = [*NAMES.names, *(f"other_{name}" for name in NAMES.names), "similarity"]
        rows: list[list[Value]] = [
            [*one, *other, similarity] for (one, other), similarity in self._nearest.items()
        ]
        found = [Sample(title="nearest pairs", columns=columns, rows=rows)]
        return [*found, self._largest()] if grouped else found

    def _largest(self) -> Sample:
        members, group = self._components.groups()
        sizes = np.bincount(group)
        largest = np.argsort(-sizes, kind="stable")[:_GROUPS]
        starts = np.searchsorted(group, largest)
        chosen = [
            members[start : start + min(_MEMBERS, sizes[each])]
            for each, start in zip(largest, starts, strict=True)
        ]
        rows: list[list[Value]] = [
            [int(each), int(sizes[each]), row["shard"], row["key"], row["row"]]
            for each, some in zip(largest, chosen, strict=True)
            for row in self._named(some).to_pylist()
        ]
        return Sample(
            title="largest groups", columns=["group", "size", "shard", "key", "row"], rows=rows
        )

    def _named(self, numbers: npt.NDArray[np.int64]) -> pa.Table:
        """Return shard, key and row of ascending numbers, or of such runs."""
        places = np.searchsorted(self._firsts, numbers, "right") - 1
        order = np.argsort(places, kind="stable")
        parts = [NAMES.empty_table()]
        meant = np.unique(places)
        names = [self._shards[place] for place in meant]
        for place, (shard, table) in zip(
            meant, self._cache.columns_of_all(names, ["key", "row"]), strict=True
        ):
            rows = numbers[places == place] - self._firsts[place]
            taken = table.take(at(rows))
            shards = pa.repeat(shard, len(rows))
            parts.append(pa.table([shards, *taken.columns], schema=NAMES))
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pa.concat_tables(parts).take(at(back))


def _place(row: dict[str, Any]) -> Place:
    return row["shard"], row["key"], row["row"]
