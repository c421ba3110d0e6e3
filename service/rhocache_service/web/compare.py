"""Two caches of the same data, side by side."""

from fastapi import Request

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.job.names import reference_name
from rhocache_service.api.caches import InCache
from rhocache_service.api.dependencies import InRegistry
from rhocache_service.registry.caches import Committed
from rhocache_service.registry.tables import CacheRow
from rhocache_service.web.charts import place, ticks
from rhocache_service.web.gallery import read_pairs
from rhocache_service.web.render import page, page_router

router = page_router()

_OTHERS = 100  # caches that are looked at for those of the same data


@router.get("/caches/{cache}/compare")
def compare(request: Request, cache: InCache, registry: InRegistry, other: str = ""):
    reader = CacheReader.open(cache.uri)
    if not other:
        others = _of_same_data(registry.caches, cache, reader)
        return page("compare.html", request, cache=cache, others=others, found=None)
    second = registry.caches.find(other)
    second_reader = CacheReader.open(second.uri)
    found = request.app.state.comparisons(reader, second_reader)
    shown, trouble = read_pairs(request, reader.manifest, (pair for pair, _ in found.differing))
    xs, ys = found.points[:, 0], found.points[:, 1]
    low = min(found.points.min(initial=1.0), 1.0)
    high = max(found.points.max(initial=-1.0), low + 1e-6)
    return page(
        "compare.html",
        request,
        cache=cache,
        other=second,
        names=[reference_name(each.manifest.reference) for each in (reader, second_reader)],
        found=found,
        points=[
            (place(float(x), low, high), 100 - place(float(y), low, high))
            for x, y in zip(xs, ys, strict=True)
        ],
        ticks=ticks(float(low), float(high)),
        shown=shown,
        trouble=trouble,
    )


def _of_same_data(
    caches: Committed, cache: CacheRow, reader: CacheReader
) -> list[tuple[CacheRow, str]]:
    """The newest other caches of the same dataset, each with its reference."""
    found: list[tuple[CacheRow, str]] = []
    for row in caches.newest(_OTHERS):
        try:
            opened = None if row.id == cache.id else CacheReader.find(row.uri)
        except RhocacheError:  # a damaged cache hinders no comparison of others
            continue
        if opened is not None and opened.manifest.dataset == reader.manifest.dataset:
            found.append((row, reference_name(opened.manifest.reference)))
    return found
