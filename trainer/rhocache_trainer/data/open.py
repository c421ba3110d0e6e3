"""Opens the pairs that a run's settings name, and the caches that steer it."""

from collections.abc import Sequence
from typing import Any

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.dataset.formats import open_dataset
from rhocache_schemas.dataset.formats.base import Format, KeyedFormat
from rhocache_schemas.dataset.source import TARS
from rhocache_schemas.errors import DatasetError
from rhocache_schemas.table.selection import Selection
from rhocache_trainer.cache.reader import KEPT_BYTES, ReferenceCache
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.join import CachedPairs, KeyedPairs, PairSource, PlainPairs, Reads
from rhocache_trainer.data.selected import SelectedPairs, selected_pairs, selected_rows
from rhocache_trainer.data.tar_keys import TarKeys
from rhocache_trainer.loss.references import References, ReferencesConfig


def open_pairs(
    data: Data,
    cache: str | Sequence[str] | None,
    references: ReferencesConfig | None = None,
    *,
    cached: str | None = None,
    reads: Reads = "all",
) -> PairSource:
    """Return the pairs that ``data`` names, joined with the cache at a path or URI if there is one.

    Of several caches, each of another reference, every pair needs a row in all; ``references`` says
    how they are combined. ``cached`` is the cache, one of them or another, whose embeddings stand
    in for towers; ``reads`` says what is still read of the dataset. Of a selection those pairs
    alone.

    Raises DatasetError and InvalidInput for what ``data`` names, and CacheError's kin.
    """
    selection = None if data.only is None else Selection.read(data.only)
    steering = [cache] if isinstance(cache, str) else list(cache or [])
    places = [*steering, cached] if cached and cached not in steering else steering
    if not places:
        dataset = open_dataset(data, data.kind)
        pairs = PlainPairs(dataset)
        if not pairs.usable:
            raise DatasetError(f"{data.dataset} has no usable pair: {dataset.describe()}")
        if selection is None:
            return pairs
        return SelectedPairs(pairs, selected_pairs(selection, dataset), selection.place)
    kept = KEPT_BYTES // (max(1, data.workers) * len(places))
    caches = [ReferenceCache.open(place, kept_bytes=kept) for place in places]
    manifests = [each.manifest for each in caches]
    if data.captions is None:  # as many are read as were scored, which is what hashes are of
        data = data.model_copy(update={"captions": manifests[0].source.captions})
    dataset = open_dataset(data, data.kind)
    options: dict[str, Any] = {
        "others": caches[1:],
        "references": References(manifests[: len(steering)], references) if steering else None,
        "cached": None if cached is None else _columns(manifests, places.index(cached)),
        "reads": reads,
        "on_missing": data.on_missing,
    }
    joined = _join(dataset, data, caches[0], options)
    if selection is None:
        return joined
    return SelectedPairs(joined, selected_rows(selection, caches[0]), selection.place)


def _join(
    dataset: Format, data: Data, cache: ReferenceCache, options: dict[str, Any]
) -> KeyedPairs | CachedPairs:
    if isinstance(dataset, KeyedFormat):
        return KeyedPairs(dataset, cache, **options)
    if cache.manifest.format != TARS:
        return KeyedPairs(TarKeys(dataset), cache, **options)
    return CachedPairs(dataset, cache, data.of_rows, **options)


def _columns(manifests: list[Manifest], place: int) -> slice:
    """Where the embeddings of one of the caches lie, where those of all lie one after another."""
    start = sum(each.dimension for each in manifests[:place])
    return slice(start, start + manifests[place].dimension)
