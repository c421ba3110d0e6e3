"""One run over a cache: what earlier runs have left, what is done, and how far it is."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pyarrow as pa

from rhocache_schemas import storage
from rhocache_schemas.cache.listing import shard_files
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.table import files
from rhocache_schemas.table.files import TableFile
from rhocache_workers.messages import CommittedShard
from rhocache_workers.over_cache.compute import Compute, GivesRows
from rhocache_workers.over_cache.target import Target
from rhocache_workers.run.progress import ProgressLog

_READERS = 16  # threads; an object store answers each of them only after a while


@dataclass
class Run:
    cache: CacheReader
    target: Target
    progress: ProgressLog
    compute: Compute
    confirm: Callable[
        [], None
    ]  # raises where the output is another run's, or the cache has changed
    files: list[TableFile] = field(default_factory=list[TableFile])  # written, or kept

    def have_shards(self, work: GivesRows) -> None:
        """Have the file of each shard, computing those that no earlier run has left."""
        index = self.cache.index
        there = sorted(shard_files(self.target.output).keys() & index.keys())
        with ThreadPoolExecutor(_READERS) as pool:
            kept = [file for file in pool.map(self.target.kept, there) if file is not None]
        self.files += kept
        self.begin(kept)
        done = {file.shard for file in kept}
        left = [name for name in index if name not in done]
        if left:
            self.progress.step("computing")
        for file in self.compute(work, left, self.target) if left else ():
            self.add(file)
        order = {name: place for place, name in enumerate(index)}
        self.files.sort(key=lambda file: order.get(file.shard or "", -1))

    def begin(self, kept: list[TableFile]) -> None:
        """Begin to write files; these are there. A kind that has no files of shards calls it."""
        self.progress.begin(map(self._ended, kept), self.confirm)

    def add(self, file: TableFile) -> None:
        """A file is written."""
        self.files.append(file)
        if file.shard is not None:
            self.progress.add(self._ended(file))

    def rows_of_shards(self) -> Iterator[pa.Table]:
        """Yield the rows of each shard's file."""
        for file in self.files:
            if file.shard is not None:
                uri = storage.join(self.target.output, file.name)
                yield files.decode(storage.read_bytes(uri), None, uri)

    def _ended(self, file: TableFile) -> CommittedShard:
        row = self.cache.index[file.shard or ""]
        return CommittedShard(replace(row, source_size=row.rows), Counter())


def units(cache: CacheReader) -> list[Shard]:
    """The shards of a cache as progress counts them: each as large as it has pairs."""
    return [Shard(row.name, "", row.rows, 0) for row in cache.index.values()]
