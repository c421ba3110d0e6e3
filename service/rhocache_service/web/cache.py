"""A cache's page: its similarities, its pairs, where it comes from and what to do with it."""

from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Query, Request
from fastapi.responses import RedirectResponse

from rhocache_schemas.api import CachedPair
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.job.names import reference_name
from rhocache_service.api.caches import InCache, ToChange
from rhocache_service.api.dependencies import InRegistry
from rhocache_service.caches import search, similarity
from rhocache_service.caches.similarity import Similarities
from rhocache_service.http.addresses import root_path
from rhocache_service.jobs.deletion import give_up
from rhocache_service.web.charts import place, ticks
from rhocache_service.web.gallery import read_pairs
from rhocache_service.web.render import counted, page, page_router
from rhocache_service.web.snippets import snippets

router = page_router()

CARDS = 24
_BARS = 60

View = Literal["lowest", "highest", "random", "failed"]
Similarity = Annotated[float | Literal[""] | None, Query()]  # a form sends empty ones too


@dataclass(frozen=True, slots=True)
class _Chosen:
    title: str
    pairs: list[CachedPair]  # one more than are shown where there are others
    trouble: str | None = None
    look: search.Look | None = None  # through captions


@router.get("/caches/{cache}")
def cache(
    request: Request,
    cache: InCache,
    view: View = "lowest",
    q: Annotated[str, Query(max_length=1000)] = "",
    low: Similarity = None,
    high: Similarity = None,
    skip: Annotated[int, Query(ge=0, le=10**12)] = 0,
    seed: Annotated[int, Query(ge=0, le=2**32 - 1)] = 0,
    shard: Annotated[int, Query(ge=0, le=10**9)] = 0,  # of the dataset, where a search goes on
):
    reader = CacheReader.open(cache.uri)
    ranked = request.app.state.similarities(reader)
    bounds = (None if low == "" else low, None if high == "" else high)
    if q.strip():
        chosen = _search(request, reader, q, skip, shard)
    elif bounds != (None, None):
        chosen = _between(reader, ranked, *bounds, skip)
    else:
        chosen = _view(reader, ranked, view, skip, seed)
    pairs = chosen.pairs[:CARDS]
    shown, trouble = read_pairs(request, reader.manifest, pairs)
    return page(
        "cache.html",
        request,
        cache=cache,
        manifest=reader.manifest,
        reference=reference_name(reader.manifest.reference),
        bytes=sum(row.bytes for row in reader.index.values()),
        title=chosen.title,
        pairs=pairs,
        further=skip + CARDS if len(chosen.pairs) > CARDS else None,
        shown=shown,
        trouble=chosen.trouble or trouble,
        histogram=_histogram(ranked.similarity),
        ranked=ranked,
        snippets=snippets(cache.uri, reader.manifest),
        view=None if q.strip() or bounds != (None, None) else view,
        asked={"q": q, "low": bounds[0], "high": bounds[1], "seed": seed, "shard": shard},
        look=chosen.look,
    )


@router.post("/caches/{cache}/keep")
def keep(request: Request, cache: ToChange, registry: InRegistry):
    registry.caches.keep_until(cache, None)
    return RedirectResponse(f"{root_path(request)}/caches/{cache.id}", status_code=303)


@router.post("/caches/{cache}/delete")
def delete(request: Request, cache: ToChange, registry: InRegistry):
    give_up(registry, cache.uri, request.app.state.settings.roots)
    return RedirectResponse(f"{root_path(request)}/caches", status_code=303)


def _view(reader: CacheReader, ranked: Similarities, view: View, skip: int, seed: int) -> _Chosen:
    total = len(ranked.similarity)
    if view == "failed":
        found = search.failed_pairs(reader)
        return _Chosen("Failed pairs", list(islice(found, skip, skip + CARDS + 1)))
    if view == "random":
        ranks = np.random.default_rng(seed).permutation(total)[:CARDS].tolist()
    else:
        ranks = list(range(skip, min(skip + CARDS + 1, total)))
        if view == "highest":
            ranks = [total - 1 - rank for rank in ranks]
    titles = {"lowest": "Lowest similarity", "highest": "Highest similarity"}
    pairs = similarity.pairs_at(reader, ranked, ranks)
    return _Chosen(titles.get(view, "A random sample"), pairs)


def _between(
    reader: CacheReader, ranked: Similarities, low: float | None, high: float | None, skip: int
) -> _Chosen:
    values = ranked.similarity
    first = 0 if low is None else int(np.searchsorted(values, np.float32(low), "left"))
    last = len(values) if high is None else int(np.searchsorted(values, np.float32(high), "right"))
    ranks = range(first + skip, min(first + skip + CARDS + 1, last))
    ends = ["" if end is None else f"{end:.3f}" for end in (low, high)]
    count = counted(max(0, last - first), "pair")
    title = f"Similarity {' to '.join(ends).strip()}: {count}"
    return _Chosen(title, similarity.pairs_at(reader, ranked, ranks))


def _search(request: Request, reader: CacheReader, text: str, skip: int, shard: int) -> _Chosen:
    """Pairs of a key or whole caption, from everywhere; and then those with words in a caption."""
    pairs = [] if shard else list(islice(search.with_text(reader, text), skip + CARDS + 1))
    try:
        look = search.with_words(reader, request.app.state.settings.roots, text, shard)
        pairs += look.pairs
        trouble = None
    except RhocacheError as error:
        look, trouble = None, str(error)
    return _Chosen(f"Pairs with “{text}”", pairs[skip : skip + CARDS + 1], trouble, look)


def _histogram(values: np.ndarray) -> dict[str, Any] | None:
    """Bars with their places in percent; None without pairs."""
    if not len(values):
        return None
    edges = np.linspace(values[0], values[-1], _BARS + 1, dtype=np.float32)
    counts, _ = np.histogram(values, bins=edges)
    below = np.nextafter(edges, np.float32(-np.inf))  # the next bar's pairs are not this one's
    below[-1] = edges[-1]
    low, high, most = float(edges[0]), float(edges[-1]), int(counts.max())
    bars = [
        {
            "count": int(count),
            "height": 100 * int(count) / most,
            "left": 100 * number / _BARS,
            "low": float(edges[number]),
            "high": float(below[number + 1]),
        }
        for number, count in enumerate(counts)
    ]
    median = float(np.median(values))
    return {
        "bars": bars,
        "width": 100 / _BARS,
        "low": low,
        "high": high,
        "median": median,
        "median_at": place(median, low, high),
        "x": ticks(low, high),
        "y": ticks(0, most, least=1)[1:],
    }
