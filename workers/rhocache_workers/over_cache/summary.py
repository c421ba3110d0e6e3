"""Sums up a table's columns, a shard at a time: how they are spread, and their extreme rows."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rhocache_schemas.table.documents import Column, Histogram, Sample, Summary

BINS = 50
EXTREMES = 20  # rows at each end

Tables = Callable[[], Iterable[pa.Table]]


@dataclass
class _Moments:
    count: int = 0
    total: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    def add(self, values: np.ndarray) -> None:
        if len(values):
            self.count += len(values)
            self.total += float(values.sum())
            self.low = min(self.low, float(values.min()))
            self.high = max(self.high, float(values.max()))


@dataclass
class _Extremes:
    """The rows of the lowest and highest values of a column, as (value, shard, key)."""

    column: str
    lowest: list[tuple[float, str, str]] = field(default_factory=list)
    highest: list[tuple[float, str, str]] = field(default_factory=list)

    def add(self, table: pa.Table) -> None:
        values = table[self.column].to_numpy()
        known = np.flatnonzero(np.isfinite(values))
        order = known[np.argsort(values[known], kind="stable")]
        self.lowest = heapq.nsmallest(
            EXTREMES, self.lowest + _rows(table, values, order[:EXTREMES])
        )
        self.highest = heapq.nlargest(
            EXTREMES, self.highest + _rows(table, values, order[-EXTREMES:])
        )

    def samples(self) -> list[Sample]:
        columns = ["shard", "key", self.column]
        return [
            Sample(title=title, columns=columns, rows=[[s, k, v] for v, s, k in rows])
            for title, rows in (("highest", self.highest), ("lowest", self.lowest))
            if rows
        ]


def summarise(tables: Tables, columns: Sequence[Column], shown: str | None) -> Summary:
    """Return the mean, range and histogram of each column of numbers, and the extreme rows of
    ``shown``.

    ``tables`` is called twice, for the tables of all shards.
    """
    numbers = [column.name for column in columns if column.type in ("double", "float")]
    moments = {name: _Moments() for name in numbers}
    extremes = _Extremes(shown) if shown else None
    rows = 0
    for table in tables():
        rows += table.num_rows
        for name, values in _known(table, numbers):
            moments[name].add(values)
        if extremes is not None:
            extremes.add(table)
    counts = {name: np.zeros(BINS, np.int64) for name in numbers}
    for table in tables():
        for name, values in _known(table, numbers):
            if len(values):
                within = moments[name].low, moments[name].high
                counts[name] += np.histogram(values, BINS, within)[0]
    facts: dict[str, Any] = {"pairs": rows}
    for name, found in moments.items():
        if found.count:
            facts[f"{name}, mean"] = found.total / found.count
    return Summary(
        facts=facts,
        histograms=[
            Histogram(column=name, low=found.low, high=found.high, counts=counts[name].tolist())
            for name, found in moments.items()
            if found.count
        ],
        samples=extremes.samples() if extremes else [],
    )


def _known(table: pa.Table, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    for name in names:
        values = table[name].drop_null().to_numpy()
        yield name, values[np.isfinite(values)]


def _rows(table: pa.Table, values: np.ndarray, places: np.ndarray) -> list[tuple[float, str, str]]:
    named = table.select(["shard", "key"]).take(places).to_pylist()
    return [
        (float(values[place]), row["shard"], row["key"])
        for place, row in zip(places, named, strict=True)
    ]
