"""Opens the pairs that a run's settings name, and the caches that steer it."""

from collections.abc import Sequence

from rhocache_schemas.dataset.formats import open_dataset
from rhocache_schemas.dataset.formats.base import KeyedFormat
from rhocache_schemas.dataset.source import TARS
from rhocache_schemas.errors import DatasetError
from rhocache_trainer.cache.reader import KEPT_BYTES, ReferenceCache
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.join import CachedPairs, KeyedPairs, PairSource, PlainPairs
from rhocache_trainer.data.tar_keys import TarKeys
from rhocache_trainer.loss.references import References, ReferencesConfig


def open_pairs(
    data: Data, cache: str | Sequence[str] | None, references: ReferencesConfig | None = None
) -> PairSource:
    """Return the pairs that ``data`` names, joined with the cache at a path or URI if there is one.

    Of several caches, each of another reference, every pair needs a row in all; ``references`` says
    how they are combined.

    Raises DatasetError and InvalidInput for what ``data`` names, and CacheError's kin.
    """
    dataset = open_dataset(data, data.kind)
    places = [cache] if isinstance(cache, str) else cache or []
    if not places:
        pairs = PlainPairs(dataset)
        if not pairs.usable:
            raise DatasetError(f"{data.dataset} has no usable pair: {dataset.describe()}")
        return pairs
    kept = KEPT_BYTES // (max(1, data.workers) * len(places))
    caches = [ReferenceCache.open(place, kept_bytes=kept) for place in places]
    together = References([each.manifest for each in caches], references)
    first, *others = caches
    if isinstance(dataset, KeyedFormat):
        return KeyedPairs(
            dataset, first, others=others, references=together, on_missing=data.on_missing
        )
    if first.manifest.format != TARS:
        return KeyedPairs(
            TarKeys(dataset), first, others=others, references=together, on_missing=data.on_missing
        )
    return CachedPairs(
        dataset,
        first,
        data.of_rows,
        others=others,
        references=together,
        on_missing=data.on_missing,
    )
