"""Opens the pairs that a run's settings name, and the cache that steers it."""

from rhocache_schemas.dataset.formats import open_dataset
from rhocache_schemas.dataset.formats.base import KeyedFormat
from rhocache_schemas.errors import DatasetError
from rhocache_schemas.table.selection import Selection
from rhocache_trainer.cache.reader import KEPT_BYTES, ReferenceCache
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.join import CachedPairs, KeyedPairs, PairSource, PlainPairs
from rhocache_trainer.data.selected import SelectedPairs, selected_pairs, selected_rows


def open_pairs(data: Data, cache: str | None) -> PairSource:
    """Return the pairs that ``data`` names, joined with the cache at a path or URI if there is one.

    Of a selection those alone.

    Raises DatasetError and InvalidInput for what ``data`` names, and CacheError's kin.
    """
    selection = None if data.only is None else Selection.read(data.only)
    dataset = open_dataset(data, data.kind)
    if cache is None:
        pairs = PlainPairs(dataset)
        if not pairs.usable:
            raise DatasetError(f"{data.dataset} has no usable pair: {dataset.describe()}")
        if selection is None:
            return pairs
        return SelectedPairs(pairs, selected_pairs(selection, dataset), selection.place)
    opened = ReferenceCache.open(cache, kept_bytes=KEPT_BYTES // max(1, data.workers))
    if isinstance(dataset, KeyedFormat):
        pairs = KeyedPairs(dataset, opened, on_missing=data.on_missing)
    else:
        pairs = CachedPairs(dataset, opened, data.caption_field, on_missing=data.on_missing)
    if selection is None:
        return pairs
    return SelectedPairs(pairs, selected_rows(selection, opened), selection.place)
