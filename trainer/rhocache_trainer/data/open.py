"""Opens the pairs that a run's settings name, and the cache that steers it."""

from rhocache_schemas.dataset.formats import open_dataset
from rhocache_schemas.dataset.formats.base import KeyedFormat
from rhocache_schemas.dataset.source import TARS
from rhocache_schemas.errors import DatasetError
from rhocache_trainer.cache.reader import KEPT_BYTES, ReferenceCache
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.join import CachedPairs, KeyedPairs, PairSource, PlainPairs
from rhocache_trainer.data.tar_keys import TarKeys


def open_pairs(data: Data, cache: str | None) -> PairSource:
    """Return the pairs that ``data`` names, joined with the cache at a path or URI if there is one.

    Raises DatasetError and InvalidInput for what ``data`` names, and CacheError's kin.
    """
    dataset = open_dataset(data, data.kind)
    if cache is None:
        pairs = PlainPairs(dataset)
        if not pairs.usable:
            raise DatasetError(f"{data.dataset} has no usable pair: {dataset.describe()}")
        return pairs
    opened = ReferenceCache.open(cache, kept_bytes=KEPT_BYTES // max(1, data.workers))
    if isinstance(dataset, KeyedFormat):
        return KeyedPairs(dataset, opened, on_missing=data.on_missing)
    if opened.manifest.format != TARS:
        return KeyedPairs(TarKeys(dataset), opened, on_missing=data.on_missing)
    return CachedPairs(dataset, opened, data.of_rows, on_missing=data.on_missing)
