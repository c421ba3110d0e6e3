"""Makes a table of which pairs of a cache are selected, and why the others are not."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import FingerprintMismatch
from rhocache_schemas.job.kinds.select import NEG_CLIP_LOSS, NORM_SIM, SelectSpec
from rhocache_schemas.table.documents import Column, Sample, Summary
from rhocache_schemas.table.files import KEYS
from rhocache_schemas.table.reader import TableReader, is_table
from rhocache_schemas.table.selection import SELECTED, Selection
from rhocache_workers.over_cache.run import Run
from rhocache_workers.over_cache.selection import uids
from rhocache_workers.over_cache.selection.choice import Choice
from rhocache_workers.over_cache.work import Work

UIDS = "uids.npy"

_COLUMNS = {
    SELECTED: Column(name=SELECTED, type="bool", description="whether the pair is selected"),
    "removed_by": Column(
        name="removed_by",
        type="string",
        description="the rule that left the pair out; null where none did, or it is not usable",
    ),
    NEG_CLIP_LOSS: Column(
        name=NEG_CLIP_LOSS, type="double", description="null where it was left out before"
    ),
    NORM_SIM: Column(name=NORM_SIM, type="double", description="null where it was left out before"),
    "cluster": Column(
        name="cluster", type="int32", description="of the image; null where it was left out before"
    ),
}


class Select(Work[SelectSpec]):
    """Its files are those of shards, and where uids are asked for one of these."""

    def __init__(self, spec: SelectSpec, cache: CacheReader) -> None:
        """Raises InvalidInput for rules that lack what they need."""
        spec.check_rules()
        super().__init__(spec, cache)

    def inputs(self) -> Mapping[str, str]:
        """Raises what opening them does."""
        spec = self.spec
        found: dict[str, str] = {}
        if self._only is not None:
            found["only"] = self._only.sha256
        if spec.table is not None:
            found["table"] = _hash(spec.table)
        if self._target is not None:
            found["target"] = storage.sha256(layout.manifest_file(self._target.uri))
        if spec.duplicates is not None:
            found["duplicates"] = TableReader.open(spec.duplicates).manifest.index_sha256
        return found

    def columns(self) -> Sequence[Column]:
        asked = {condition.column for condition in self.spec.where}
        asked |= {SELECTED, "removed_by"} | ({"cluster"} if self.spec.clusters else set())
        return [column for name, column in _COLUMNS.items() if name in asked]

    def make(self, run: Run) -> Summary:
        run.begin([])
        with Choice(
            self.spec, self.cache, run.target.manifest_sha256, self._target, run.progress.step
        ) as choice:
            choice.make(self._only)
        data = None
        if self.spec.uids is not None:  # before anything is written: it may lack some
            data = uids.encode(choice.pairs, choice.left, self.spec.uids)
        run.progress.step("writing")
        for shard, rows in self._tables(choice):
            run.add(run.target.write_shard(shard, rows))
        if data is not None:
            run.add(run.target.write_bytes(UIDS, data))
        return _sum_up(choice)

    @cached_property
    def _only(self) -> Selection | None:
        return None if self.spec.only is None else Selection.read(self.spec.only)

    @cached_property
    def _target(self) -> CacheReader | None:
        """Raises FingerprintMismatch for a cache of another reference."""
        if self.spec.target is None:
            return None
        target = CacheReader.open(self.spec.target)
        ours, theirs = self.cache.manifest.fingerprint, target.manifest.fingerprint
        for name in ("weights_sha256", "architecture", "preprocessing"):
            if getattr(ours, name) != getattr(theirs, name):
                raise FingerprintMismatch(
                    f"the target {target.uri} was made with another reference than "
                    f"{self.cache.uri}: {name} differs, and so images can't be compared"
                )
        return target

    def _tables(self, choice: Choice) -> Iterator[tuple[str, pa.Table]]:
        """Yield the rows of each shard: shard, key, row and the columns."""
        pairs = choice.pairs
        names = pa.array([rule for rule, _, _ in choice.rules], pa.string())
        for shard, rows in pairs.rows.items():
            keys, part = self.cache.columns(shard, ["key", "row"]), pairs.slice(shard)
            count = keys.num_rows
            named = pa.repeat(shard, count)
            selected = np.zeros(count, np.bool_)
            selected[rows] = choice.left[part]
            removed = np.full(count, -1)
            removed[rows] = choice.removed_by[part]
            table = pa.table([named, keys["key"], keys["row"]], schema=KEYS)
            table = table.append_column(SELECTED, pa.array(selected)).append_column(
                "removed_by", names.take(_places(removed))
            )
            for column in self.columns()[2:]:
                values = choice.columns[column.name]
                every = np.full(count, -1 if column.type == "int32" else np.nan, values.dtype)
                every[rows] = values[part]
                unknown = every < 0 if column.type == "int32" else np.isnan(every)
                table = table.append_column(column.name, pa.array(every, mask=unknown))
            yield shard, table


def _places(numbers: npt.NDArray[np.int64]) -> Any:
    """As pyarrow takes them, whose stubs know no masks; null for −1."""
    return pa.array(numbers, mask=numbers < 0)


def _hash(place: str) -> str:
    return (
        TableReader.open(place).manifest.index_sha256 if is_table(place) else storage.sha256(place)
    )


def _sum_up(choice: Choice) -> Summary:
    selected = int(choice.left.sum())
    facts: dict[str, Any] = {"pairs": choice.pairs.count, "selected": selected}
    facts["share"] = selected / choice.pairs.count
    rows: list[list[Any]] = [list(rule) for rule in choice.rules]
    rules = Sample(title="rules", columns=["rule", "removed", "left"], rows=rows)
    return Summary(facts=facts, samples=[rules])
