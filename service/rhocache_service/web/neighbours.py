"""What a neighbours table says, with pictures: its nearest pairs and largest groups."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from fastapi import Request

from rhocache_schemas.api import CachedPair
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.job.kinds.neighbours import NeighboursSpec
from rhocache_schemas.job.spec import JobSpec
from rhocache_schemas.table.documents import Sample
from rhocache_schemas.table.reader import TableReader
from rhocache_service.caches.images import Place
from rhocache_service.registry.jobs import Registry
from rhocache_service.web.gallery import read_pairs
from rhocache_service.web.render import counted


@dataclass(frozen=True, slots=True)
class Together:
    """Pairs that are shown beside each other, and why."""

    title: str
    pairs: list[CachedPair]


@dataclass(frozen=True, slots=True)
class NeighboursGallery:
    groups: list[Together]
    nearest: list[Together]
    cache: str | None  # its id, where its pictures may be had
    shown: dict[Place, Pair]
    trouble: str | None


def gallery(
    request: Request, registry: Registry, spec: JobSpec, *, with_pictures: bool
) -> NeighboursGallery | None:
    """None for a job of another kind, and as long as its table is not committed."""
    try:
        table = TableReader.find(spec.output) if isinstance(spec, NeighboursSpec) else None
    except RhocacheError:
        return None  # which the page tells at another place
    if table is None:
        return None
    samples = {sample.title: sample for sample in table.manifest.summary.samples}
    groups = list(_groups(samples["largest groups"])) if "largest groups" in samples else []
    nearest = list(_nearest(samples["nearest pairs"]))
    cache = registry.caches.at(table.manifest.spec.model_dump()["cache"])
    if cache is None or not with_pictures:
        return NeighboursGallery(groups, nearest, None, {}, None)
    try:
        manifest = CacheReader.open(cache.uri).manifest
    except RhocacheError as error:
        return NeighboursGallery(groups, nearest, None, {}, str(error))
    pairs = [pair for together in groups + nearest for pair in together.pairs]
    shown, trouble = read_pairs(request, manifest, pairs)
    return NeighboursGallery(groups, nearest, cache.id, shown, trouble)


def _groups(sample: Sample) -> Iterator[Together]:
    for (group, size), rows in groupby(_named(sample), lambda row: (row["group"], row["size"])):
        pairs = [_pair(row) for row in rows]
        more = f", {len(pairs)} of them" if len(pairs) < size else ""
        yield Together(f"Group {group}: {counted(size, 'pair')}{more}", pairs)


def _nearest(sample: Sample) -> Iterator[Together]:
    for row in _named(sample):
        yield Together(f"{row['similarity']:.4f}", [_pair(row), _pair(row, "other_")])


def _named(sample: Sample) -> Iterator[dict[str, Any]]:
    for row in sample.rows:
        yield dict(zip(sample.columns, row, strict=True))


def _pair(row: dict[str, Any], before: str = "") -> CachedPair:
    shard, key, number = (row[f"{before}{name}"] for name in ("shard", "key", "row"))
    return CachedPair(shard=shard, key=key, row=number, status="ok")
