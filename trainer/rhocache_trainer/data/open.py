"""Opens the pairs that a run's settings name, and the caches that steer it."""

from collections.abc import Sequence

from rhocache_schemas.dataset.formats import open_dataset
from rhocache_schemas.dataset.formats.base import Format, KeyedFormat
from rhocache_schemas.dataset.source import TARS
from rhocache_schemas.errors import DatasetError
from rhocache_schemas.table.selection import Selection
from rhocache_trainer.cache.reader import KEPT_BYTES, ReferenceCache
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.join import CachedPairs, KeyedPairs, PairSource, PlainPairs
from rhocache_trainer.data.selected import SelectedPairs, selected_pairs, selected_rows
from rhocache_trainer.data.tar_keys import TarKeys
from rhocache_trainer.loss.references import References, ReferencesConfig


def open_pairs(
    data: Data, cache: str | Sequence[str] | None, references: ReferencesConfig | None = None
) -> PairSource:
    """Return the pairs that ``data`` names, joined with the cache at a path or URI if there is one.

    Of several caches, each of another reference, every pair needs a row in all; ``references`` says
    how they are combined. Of a selection those pairs alone.

    Raises DatasetError and InvalidInput for what ``data`` names, and CacheError's kin.
    """
    selection = None if data.only is None else Selection.read(data.only)
    dataset = open_dataset(data, data.kind)
    places = [cache] if isinstance(cache, str) else cache or []
    if not places:
        pairs = PlainPairs(dataset)
        if not pairs.usable:
            raise DatasetError(f"{data.dataset} has no usable pair: {dataset.describe()}")
        if selection is None:
            return pairs
        return SelectedPairs(pairs, selected_pairs(selection, dataset), selection.place)
    kept = KEPT_BYTES // (max(1, data.workers) * len(places))
    caches = [ReferenceCache.open(place, kept_bytes=kept) for place in places]
    joined = _join(
        dataset, data, caches, References([each.manifest for each in caches], references)
    )
    if selection is None:
        return joined
    return SelectedPairs(joined, selected_rows(selection, caches[0]), selection.place)


def _join(
    dataset: Format, data: Data, caches: list[ReferenceCache], references: References
) -> KeyedPairs | CachedPairs:
    first, *others = caches
    keyed = None
    if isinstance(dataset, KeyedFormat):
        keyed = dataset
    elif first.manifest.format != TARS:
        keyed = TarKeys(dataset)
    if keyed is not None:
        return KeyedPairs(
            keyed, first, others=others, references=references, on_missing=data.on_missing
        )
    return CachedPairs(
        dataset,
        first,
        data.of_rows,
        others=others,
        references=references,
        on_missing=data.on_missing,
    )
