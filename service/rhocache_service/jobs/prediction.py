"""What a scoring job will take, from its spec and from earlier jobs with its reference."""

from collections.abc import Mapping, Sequence

import numpy as np

from rhocache_schemas.api import Range
from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.cache.index import IndexRow
from rhocache_schemas.dataset.formats import read_shard
from rhocache_schemas.dataset.pair import HASH_BYTES
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import ShardError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_schemas.reference import Dtype
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import JobRow

_EARLIER = 100  # jobs that are looked at
_ALIKE = 5  # of those with the same reference, how many tell

# Bytes of a pair beside its embeddings: row, similarity and hashes; a vector's scale in int8; and
# the pair's key, status and nulls.
_NUMBERS, _SCALE, _KEY = 4 + 4 + 2 * HASH_BYTES, 4, 120
_SHARD = 20_000  # bytes of a shard file beside its pairs, at most

_BEGINNING = 1 << 20  # bytes of a shard whose pairs stand for the others
_SPREAD = 0.2  # of a whole shard's density about that of its beginning


def bytes_per_pair(dimension: int, dtype: Dtype, views: int = 1, captions: int = 1) -> int:
    """Of the embeddings of an image's views and of captions, and the numbers beside them, without
    the key."""
    each = dimension * np.dtype(dtype).itemsize + (_SCALE if dtype == "int8" else 0)
    return (views + captions) * each + _NUMBERS


def sample_density(shards: Sequence[Shard], source: Source) -> Range | None:
    """Pairs a byte, by the first, middle and last of those shards that don't tell how many they
    have; None where there are none, or they can't be read."""
    shards = [shard for shard in shards if shard.rows is None]
    if not shards:
        return None
    sampled = {shard.name: shard for shard in (shards[0], shards[len(shards) // 2], shards[-1])}
    densities = [
        (pairs.low / shard.size, pairs.high / shard.size)
        for shard in sampled.values()
        if (pairs := _pairs_of(shard, source)) is not None
    ]
    if not densities:
        return None
    return Range(low=min(low for low, _ in densities), high=max(high for _, high in densities))


def predict_pairs(
    shards: Sequence[Shard], read: Mapping[str, IndexRow], density: Range | None
) -> Range | None:
    """How many pairs shards have: those that were ``read``, or tell, exactly, the others by their
    sizes.

    None where there are others, and no ``density``, which is in pairs a byte.
    """
    rows = {shard.name: shard.rows for shard in shards}
    rows |= {name: row.rows for name, row in read.items() if name in rows}
    known = sum(count for count in rows.values() if count is not None)
    unread = [shard.size for shard in shards if rows[shard.name] is None]
    if not unread:
        return Range(low=known, high=known)
    if density is None:
        return None
    return Range(low=known + sum(unread) * density.low, high=known + sum(unread) * density.high)


def _pairs_of(shard: Shard, source: Source) -> Range | None:
    """How many pairs a shard has, by its beginning if it is not small; None if it can't be read."""
    reader = read_shard(shard, source)
    pairs = 0
    try:
        for pairs, _ in enumerate(reader, 1):
            if reader.position >= _BEGINNING:
                mean = pairs * shard.size / reader.position
                return Range(low=mean * (1 - _SPREAD), high=mean * (1 + _SPREAD))
    except ShardError:
        return None
    return Range(low=pairs, high=pairs)


def predict_bytes(pairs: Range, shards: int, least: int, most: int) -> Range:
    """Of a cache of so many pairs, each of so many bytes."""
    high = pairs.high * (most + _KEY) + shards * _SHARD
    return Range(low=pairs.low * least, high=high)


def predict_seconds(pairs: Range, alike: Sequence[JobRow]) -> Range | None:
    """To score so many pairs, as fast and as slow as earlier jobs were; None where none was."""
    rates = [rate for row in alike if (rate := _progress(row).pairs_per_second) > 0]
    return Range(low=pairs.low / max(rates), high=pairs.high / min(rates)) if rates else None


def jobs_alike(spec: ScoreSpec, registry: Registry) -> list[JobRow]:
    """The newest jobs that have scored as many views with the same references."""
    found: list[JobRow] = []
    asked = [each.reference for each in spec.each], spec.views.count
    for row in registry.newest(_EARLIER, status=JobState.COMPLETED):
        done = row.job_spec()
        if not isinstance(done, ScoreSpec) or not row.progress:
            continue
        if _progress(row).run.pairs_reused:  # what was not encoded tells nothing of what will be
            continue
        if ([each.reference for each in done.each], done.views.count) == asked:
            found.append(row)
    return found[:_ALIKE]


def _progress(row: JobRow) -> Progress:
    return Progress.model_validate(row.progress)
