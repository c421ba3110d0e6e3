"""Makes a table of each pair's nearest others, and of the groups of near-duplicates."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from rhocache_schemas.errors import JobError
from rhocache_schemas.job.kinds.neighbours import NeighboursSpec
from rhocache_schemas.table.documents import Column, Summary
from rhocache_workers.over_cache.compute import compute_here
from rhocache_workers.over_cache.embeddings import Block, read_blocks
from rhocache_workers.over_cache.names import NAMES, Names, at
from rhocache_workers.over_cache.neighbours import search
from rhocache_workers.over_cache.neighbours.grouping import Grouping
from rhocache_workers.over_cache.neighbours.search import Found, Index, Numbers, Vectors
from rhocache_workers.over_cache.run import Run
from rhocache_workers.over_cache.summary import summarise
from rhocache_workers.over_cache.work import PairWork

GROUPS = "groups.parquet"

_FLAT = 1_000_000  # pairs up to which the search is exact where nothing else is asked
_K = 10
_BLOCK = 16_384  # at least so many pairs are searched at a time
_MEASURED = 1000  # pairs whose nearest are found exactly too, to measure recall

_OTHER = pa.struct([*NAMES, ("similarity", pa.float32())])
_SIDES = {
    "images": ("image", "image"),
    "texts": ("text", "text"),
    "images-to-texts": ("image", "text"),
    "texts-to-images": ("text", "image"),
}


_COLUMNS = (
    Column(name="nearest", type="float", description="cosine of the nearest other pair"),
    Column(
        name="neighbours",
        type=str(pa.list_(_OTHER)),
        description="the nearest other pairs with their cosines, the nearest first",
    ),
)


class Neighbours(PairWork[NeighboursSpec]):
    rows_at_once: ClassVar = 65_536

    def columns(self) -> Sequence[Column]:
        return _COLUMNS

    def make(self, run: Run) -> Summary:
        pairs = self.cache.manifest.ok
        if pairs < 2:
            raise JobError(f"{self.cache.uri} has {pairs} usable pairs; neighbours are of two")
        if self._kind != "flat":
            run.compute = compute_here  # where the index is
        run.have_shards(self)
        run.progress.step("summing up")
        summary = summarise(run.rows_of_shards, _COLUMNS, None)
        summary.facts.update({"compared": self.spec.compare, "index": self._kind})
        if self._kind != "flat":
            run.progress.step("measuring recall")
            summary.facts["recall"] = self._recall()
        grouping = Grouping(self.cache)
        for table in run.rows_of_shards():
            grouping.add(table)
        grouped = self.spec.threshold is not None
        if grouped:
            run.add(run.target.write_table(GROUPS, grouping.groups()))
        summary.facts.update(grouping.facts(grouped=grouped))
        samples = grouping.samples(grouped=grouped)
        return Summary(facts=summary.facts, histograms=summary.histograms, samples=samples)

    def rows_of(self, shards: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        for rows in read_blocks(self.cache, shards, at_least=2**62):
            found = self._nearest(self._queries(rows), rows.numbers)
            start = 0
            for shard, usable in rows.usable.items():
                end = start + int(usable.sum())
                first, last = np.searchsorted(found.query, [start, end])
                part = Found(
                    found.query[first:last] - start,
                    found.number[first:last],
                    found.similarity[first:last],
                )
                yield shard, self._table(part, usable)
                start = end

    @cached_property
    def _kind(self) -> str:
        if self.spec.index == "auto":
            return "flat" if self.cache.manifest.ok <= _FLAT else "ivf"
        return self.spec.index

    @cached_property
    def _index(self) -> Index:
        assert self._kind in ("ivf", "hnsw")  # noqa: S101 (flat is no index)
        return Index(self._kind, self.cache.manifest.ok, self._blocks)

    @property
    def _k(self) -> int | None:
        return self.spec.k or (_K if self.spec.threshold is None else None)

    def _nearest(self, queries: Vectors, own: Numbers) -> Found:
        threshold = self.spec.threshold
        if not len(queries):
            return Found.none()
        if self._kind != "flat":
            return self._index.nearest(queries, own, k=self._k, threshold=threshold)
        return search.nearest(queries, own, self._blocks(), k=self._k, threshold=threshold)

    def _queries(self, rows: Block) -> Vectors:
        return np.asarray(getattr(rows, _SIDES[self.spec.compare][0]), np.float32)

    def _blocks(self) -> Iterator[search.Block]:
        side = _SIDES[self.spec.compare][1]
        for block in read_blocks(self.cache, list(self.cache.index), at_least=_BLOCK):
            yield block.numbers, np.asarray(getattr(block, side), np.float32)

    def _table(self, found: Found, usable: np.ndarray) -> pa.Table:
        """A row for each of a shard's pairs, null where it is not usable."""
        counts = np.zeros(len(usable), np.int64)
        counts[usable] = np.bincount(found.query, minlength=int(usable.sum()))
        names = Names(self.cache).of(found.number)
        columns = [each.combine_chunks() for each in names.columns]
        others = pa.StructArray.from_arrays(
            [*columns, pa.array(found.similarity)], fields=list(_OTHER)
        )
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        nearest = np.full(len(usable), np.nan, np.float32)
        nearest[counts > 0] = found.similarity[offsets[:-1][counts > 0]]
        lists: Any = pa.ListArray  # the stubs lack ``mask``
        lists = lists.from_arrays(at(offsets), others, mask=pa.array(~usable))
        return pa.table({"nearest": pa.array(nearest, mask=counts == 0), "neighbours": lists})

    def _recall(self) -> float:
        """Of some pairs, chosen evenly, the share of their exact nearest that were found."""
        numbers = np.unique(np.linspace(0, self.cache.manifest.ok - 1, _MEASURED).astype(np.int64))
        queries = [
            self._queries(block)[np.isin(block.numbers, numbers)]
            for block in read_blocks(self.cache, list(self.cache.index), at_least=_BLOCK)
        ]
        exact = search.nearest(
            np.concatenate(queries),
            numbers,
            self._blocks(),
            k=self._k,
            threshold=self.spec.threshold,
        )
        found = self._index.nearest(
            np.concatenate(queries), numbers, k=self._k, threshold=self.spec.threshold
        )
        return search.recall(found, exact)
