"""Reads the pairs of a cache's dataset again, in whatever format it is."""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.reader import CacheReader, changes
from rhocache_schemas.dataset.formats import find_kind, find_shards, read_shard
from rhocache_schemas.dataset.formats.base import CheckPlace
from rhocache_schemas.dataset.formats.csv import CsvTable
from rhocache_schemas.dataset.formats.parquet import ParquetTable
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.dataset.source import AUTO, Source
from rhocache_schemas.errors import DatasetError, PairMismatch
from rhocache_schemas.job.allowed_roots import Under
from rhocache_schemas.job.kinds.classify import ClassifySpec

_TABLES = (CsvTable.kind, ParquetTable.kind)


class ScoredDataset:
    """The dataset of a cache, where a job says that it is now, with a class for each caption."""

    def __init__(
        self, cache: CacheReader, spec: ClassifySpec, roots: Sequence[str] | None = None
    ) -> None:
        self._cache = cache
        self._by_folder = spec.label == "folder"
        self._check = None if roots is None else Under(roots)
        self.source, self._kind = scored_source(cache.manifest, spec.dataset, self._check)
        if not self._by_folder:
            self.source = with_class(self.source, self._kind, spec.class_field)

    def find(self, shards: Sequence[str]) -> Mapping[str, Shard]:
        """Raises DatasetError where it lacks one of them, and what opening a dataset raises."""
        found = find_shards(self.source, self._kind, shards, self._check)
        for name in shards:
            if name not in found:
                raise DatasetError(
                    f"{self.source.dataset} has no shard {name}, of which {self._cache.uri} has "
                    "pairs"
                )
        return found

    def pairs(self, shard: Shard, *, images: bool) -> Iterator[tuple[Pair, str | None]]:
        """Yield the pairs of a shard, each with its label or None.

        Raises PairMismatch where they are not those that were scored, by their keys, and
        ShardError.
        """
        keys = self._cache.columns(shard.name, ["key"])["key"].to_pylist()
        read = read_shard(shard, self.source, images=images)
        for row, (pair, key) in enumerate(zip_longest(read, keys)):
            if pair is None or pair.key != key:
                found = "none" if pair is None else pair.key
                raise PairMismatch(
                    f"shard {shard.name} of {self.source.dataset} has other pairs than "
                    f"{self._cache.uri}: at row {row} {found}, and not {key or 'none'}"
                )
            yield pair, self._label(pair)

    def check_picture(self, pair: Pair, scored: bytes | None) -> None:
        """Raise PairMismatch for a picture that is another one than was ``scored``, by its hash."""
        imported = self._cache.manifest.fingerprint.imported
        if changed := changes(replace(pair, caption=None), scored, None, imported=imported):
            raise PairMismatch(
                f"shard {pair.shard}, key {pair.key} of {self.source.dataset}: {changed[0]} into "
                f"{self._cache.uri}"
            )

    def _label(self, pair: Pair) -> str | None:
        if self._by_folder:
            return posixpath.basename(posixpath.dirname(pair.key)) or None
        return class_of(pair)


def class_of(pair: Pair) -> str | None:
    """Return the class of a pair that was read with its class for a caption."""
    return (pair.caption or "").strip() or None


def scored_source(
    manifest: Manifest, dataset: str | None, check: CheckPlace | None = None
) -> tuple[Source, str]:
    """Return how the dataset of a cache is read, which may be at ``dataset`` now, and its kind.

    Raises as find_kind does.
    """
    source, kind = manifest.source, str(manifest.format)
    if dataset is not None:
        source = source.model_copy(update={"dataset": dataset})
    return source, find_kind(source.dataset, check) if kind == AUTO else kind


def source_like_scored(
    manifest: Manifest, dataset: str, check: CheckPlace | None = None
) -> tuple[Source, str]:
    """Return how any dataset is read, as the cache's own was if it is of that kind, and its kind.

    Raises as find_kind does.
    """
    source, kind = scored_source(manifest, None, check)
    there = find_kind(dataset, check)
    if there != kind:
        return Source(dataset=dataset), there
    return source.model_copy(update={"dataset": dataset}), kind


def with_class(source: Source, kind: str, field: str | None) -> Source:
    """Return how pairs are read with their classes, out of a ``field``, for captions."""
    if field is None:
        return source
    if kind in _TABLES:
        return source.model_copy(update={"caption_column": field, "captions": None})
    suffix = source.caption_suffix if source.caption_field is not None else None
    found = {"caption_field": field, "caption_suffix": suffix, "captions": None}
    return source.model_copy(update=found)
