"""What a kind of jobs over a cache does."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Generic, TypeVar

import pyarrow as pa

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.job.over_cache import CacheJobSpec
from rhocache_schemas.table.documents import Column, Summary
from rhocache_workers.over_cache.run import Run
from rhocache_workers.over_cache.summary import summarise

Spec = TypeVar("Spec", bound=CacheJobSpec)


class Work(ABC, Generic[Spec]):
    """Makes one table. Looks at nothing but the spec and the cache's manifest until it is asked."""

    roots: Sequence[str] | None = None  # it reads of a dataset only what lies under them

    def __init__(self, spec: Spec, cache: CacheReader) -> None:
        self.spec = spec
        self.cache = cache

    def locations(self) -> Sequence[str]:
        """Places that it reads beside those of the spec: they must lie under a service's roots."""
        return ()

    def inputs(self) -> Mapping[str, str]:
        """Hashes, by name, of what the table depends on beside the cache and the spec.

        Read before anything is written. Raises RhocacheError.
        """
        return {}

    def columns(self) -> Sequence[Column]:
        """Of the files of shards, beside shard, key and row; none where there are none."""
        return ()

    def check(self) -> None:
        """Look, in the driver, at what can be wrong before anything is written.

        Raises RhocacheError.
        """

    @abstractmethod
    def make(self, run: Run) -> Summary:
        """Write files by ``run.target``, add each to ``run``, and sum up. Raises RhocacheError."""


class PairWork(Work[Spec]):
    """Makes a table of one row a pair: shards are computed in groups, wherever there is a core.

    It goes to the processes that compute as it is, so that it must be small, and keep what is
    large until ``rows_of`` asks for it.
    """

    rows_at_once: ClassVar = 16_384  # pairs that a group has at most, where a shard has fewer
    shown: ClassVar[str | None] = None  # the column whose lowest and highest rows are shown

    @abstractmethod
    def rows_of(self, shards: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        """Yield each of these shards with its ``columns``, a row a pair in the shard's order.

        A pair that is not ok has nulls. Raises RhocacheError.
        """

    def make(self, run: Run) -> Summary:
        run.have_shards(self)
        run.progress.step("summing up")
        return summarise(run.rows_of_shards, self.columns(), self.shown)
