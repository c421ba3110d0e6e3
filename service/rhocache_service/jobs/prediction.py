"""What a scoring job will take, from its spec and from earlier jobs with its reference."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rhocache_schemas.api import Range
from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.cache.index import IndexRow
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_schemas.reference import Dtype
from rhocache_service.caches.shard_status import committed_rows
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import JobRow

_EARLIER = 100  # jobs that are looked at
_ALIKE = 5  # of those with the same reference, how many tell

# Bytes of a pair beside its embeddings: row, similarity and hashes; and its key, status and nulls.
_NUMBERS, _KEY = 4 + 4 + 2 * 8, 120
_SHARD = 20_000  # bytes of a shard file beside its pairs, at most


def bytes_per_pair(dimension: int, dtype: Dtype) -> int:
    """Of an image's and a caption's embedding, and the numbers beside them; without the key."""
    return 2 * dimension * np.dtype(dtype).itemsize + _NUMBERS


def predict_pairs(
    shards: Sequence[Shard], read: Mapping[str, IndexRow], alike: Sequence[JobRow]
) -> Range | None:
    """How many pairs shards have: those that were ``read`` exactly, the others by their sizes.

    None where no shard, and no earlier job, tells how many bytes a pair has.
    """
    known = sum(read[shard.name].rows for shard in shards if shard.name in read)
    unread = sum(shard.size for shard in shards if shard.name not in read)
    densities = list(_densities([read, *map(_rows, alike)])) if unread else [0.0]
    if not densities:
        return None
    return Range(low=known + unread * min(densities), high=known + unread * max(densities))


def predict_bytes(pairs: Range, shards: int, per_pair: int) -> Range:
    """Of a cache of so many pairs."""
    high = pairs.high * (per_pair + _KEY) + shards * _SHARD
    return Range(low=pairs.low * per_pair, high=high)


def predict_seconds(pairs: Range, alike: Sequence[JobRow]) -> Range | None:
    """To score so many pairs, as fast and as slow as earlier jobs were; None where none was."""
    rates = [rate for row in alike if (rate := _progress(row).pairs_per_second) > 0]
    return Range(low=pairs.low / max(rates), high=pairs.high / min(rates)) if rates else None


def jobs_alike(spec: ScoreSpec, registry: Registry) -> list[JobRow]:
    """The newest jobs that have scored with the same reference."""
    found: list[JobRow] = []
    for row in registry.newest(_EARLIER, status=JobState.COMPLETED):
        done = row.job_spec()
        if isinstance(done, ScoreSpec) and done.reference == spec.reference and row.progress:
            found.append(row)
    return found[:_ALIKE]


def _progress(row: JobRow) -> Progress:
    return Progress.model_validate(row.progress)


def _rows(row: JobRow) -> Mapping[str, IndexRow]:
    try:
        return committed_rows(row.spec["output"])
    except RhocacheError:  # a damaged cache predicts nothing, and hinders no other job
        return {}


def _densities(caches: Sequence[Mapping[str, IndexRow]]) -> Iterator[float]:
    """Pairs a byte of the dataset, of each cache that tells it."""
    for cache in caches:
        size = sum(row.source_size for row in cache.values())
        if size:
            yield sum(row.rows for row in cache.values()) / size
