"""Applies the rules of a selection, one after another, and remembers which pair each left out."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.kinds.select import (
    NEG_CLIP_LOSS,
    NORM_SIM,
    SIMILARITY,
    Condition,
    SelectSpec,
)
from rhocache_schemas.table.selection import Selection
from rhocache_workers.over_cache.embeddings import read_blocks
from rhocache_workers.over_cache.selection import clusters, rules, scores, values
from rhocache_workers.over_cache.selection.embeddings import Stored, store
from rhocache_workers.over_cache.selection.values import Floats, Numbers, UsablePairs

Mask = npt.NDArray[np.bool_]

_BLOCK = 16_384  # targets at a time


class Choice:
    """What is left of the usable pairs of a cache, n in all.

    A context manager: embeddings that rules need lie in a temporary folder meanwhile.
    """

    def __init__(
        self,
        spec: SelectSpec,
        cache: CacheReader,
        manifest_sha256: str,
        target: CacheReader | None,
        step: Callable[[str], None],
    ) -> None:
        self.pairs = UsablePairs(cache)
        self.left = np.ones(self.pairs.count, np.bool_)  # [n]
        self.removed_by = np.full(self.pairs.count, -1, np.int16)  # [n], into ``rules``
        self.rules: list[tuple[str, int, int]] = []  # name, how many it removed, how many it left
        self.columns: dict[str, npt.NDArray[Any]] = {}  # [n], what was computed on the way
        self._spec = spec
        self._cache = cache
        self._manifest_sha256 = manifest_sha256
        self._target = target
        self._step = step
        self._stack = ExitStack()
        self._of_table: dict[str, Floats] = {}

    def __enter__(self) -> "Choice":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def make(self, only: Selection | None) -> None:
        """Raises InvalidInput for a rule that leaves no pair, and as reading tables does."""
        spec = self._spec
        if not self.pairs.count:
            raise InvalidInput(f"{self._cache.uri} has no usable pair to select")
        if only is not None:
            parts = [only.has(shard, self.pairs.keys(shard)) for shard in self.pairs.rows]
            self._keep("only", np.concatenate(parts))
        for condition in spec.where:
            self._step(f"applying {condition}")
            self._keep(str(condition), rules.within(self._values(condition), condition))
        numbers = self._numbers
        if spec.duplicates is not None:
            group = values.groups(self.pairs, spec.duplicates, self._manifest_sha256)[numbers]
            keep = rules.best_of_groups(group, self.pairs.similarity[numbers])
            self._keep("duplicates", keep)
        if spec.size is not None:
            cluster = self._clusters(spec.clusters)
            self._keep("size", clusters.balance(cluster, spec.size, spec.exponent, spec.seed))

    @property
    def _numbers(self) -> Numbers:
        """Of the pairs that are left."""
        return np.flatnonzero(self.left)

    def _keep(self, rule: str, keep: Mask) -> None:
        """``keep`` is of the pairs that are left."""
        removed = self._numbers[~keep]
        self.removed_by[removed] = len(self.rules)
        self.left[removed] = False
        left = int(self.left.sum())
        self.rules.append((rule, len(removed), left))
        if not left:
            raise InvalidInput(
                f"the rule {rule} leaves no pair of the {len(removed)} that there were: it is too "
                "strict, or of other pairs"
            )

    def _values(self, condition: Condition) -> Floats:
        """The condition's column of the pairs that are left."""
        name, numbers = condition.column, self._numbers
        if name == SIMILARITY:
            return self.pairs.similarity[numbers].astype(np.float64)
        if name in (NEG_CLIP_LOSS, NORM_SIM):
            if name not in self.columns:
                self.columns[name] = np.full(self.pairs.count, np.nan)
                score = self._neg_clip_loss if name == NEG_CLIP_LOSS else self._norm_sim
                self.columns[name][numbers] = score()
            return self.columns[name][numbers]
        if name not in self._of_table:
            assert self._spec.table is not None  # noqa: S101 (check_rules)
            self._of_table[name] = values.column(
                self.pairs, self._spec.table, name, self._manifest_sha256
            )
        return self._of_table[name][numbers]

    @cached_property
    def _stored(self) -> Stored:
        """The embeddings of the pairs that were left when a rule first asked for them."""
        return self._stack.enter_context(store(self._cache, self._numbers))

    def _neg_clip_loss(self) -> Floats:
        spec, stored = self._spec, self._stored
        return scores.neg_clip_loss(
            stored.image,
            stored.text,
            stored.places(self._numbers),
            tau=spec.tau or 1 / self._cache.manifest.known_logit_scale,
            batch=spec.batch,
            batches=spec.batches,
            seed=spec.seed,
        )

    def _norm_sim(self) -> Floats:
        stored = self._stored
        places = stored.places(self._numbers)
        return scores.norm_sim(stored.image, places, self._targets(), self._spec.norm)

    def _targets(self) -> Iterator[npt.NDArray[Any]]:
        assert self._target is not None  # noqa: S101 (check_rules)
        for block in read_blocks(self._target, list(self._target.index), at_least=_BLOCK):
            yield block.image

    def _clusters(self, count: int | None) -> Numbers:
        """The cluster of each pair that is left: one for all where none are asked for."""
        numbers = self._numbers
        if count is None:
            return np.zeros(len(numbers), np.int64)
        if count > len(numbers):
            raise InvalidInput(f"{count} clusters of {len(numbers)} pairs: ask for fewer")
        self._step(f"finding {count} clusters")
        stored = self._stored
        found = clusters.assign(stored.image, stored.places(numbers), count, self._spec.seed)
        self.columns["cluster"] = np.full(self.pairs.count, -1, np.int32)
        self.columns["cluster"][numbers] = found
        return found
