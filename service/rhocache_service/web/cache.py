"""A cache's page: its similarities, its pairs, where it comes from and what to do with it."""

from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Query, Request
from fastapi.responses import RedirectResponse

from rhocache_schemas.api import CachedPair
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.summary import BINS, KEPT, Summary
from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.job.names import reference_name
from rhocache_service.api.caches import InCache, ToChange
from rhocache_service.api.dependencies import InRegistry
from rhocache_service.caches import search, similarity
from rhocache_service.caches.similarity import Ranking, Similarities
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
    ranked: Similarities | None = None  # among which they were found


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
    ranking: Ranking = request.app.state.similarities
    bounds = (None if low == "" else low, None if high == "" else high)
    if q.strip():
        chosen = _search(request, reader, q, skip, shard)
    elif bounds != (None, None):
        chosen = _between(reader, ranking, *bounds, skip)
    else:
        chosen = _view(reader, ranking, view, skip, seed)
    pairs = chosen.pairs[:CARDS]
    shown, trouble = read_pairs(request, reader.manifest, pairs)
    return page(
        "cache.html",
        request,
        cache=cache,
        manifest=reader.manifest,
        reference=reference_name(reader.manifest.reference),
        bytes=_bytes(reader),
        title=chosen.title,
        pairs=pairs,
        further=skip + CARDS if len(chosen.pairs) > CARDS else None,
        shown=shown,
        trouble=chosen.trouble or trouble,
        histogram=_histogram(reader, ranking),
        ranked=chosen.ranked or (ranking(reader) if reader.summary is None else None),
        kept=KEPT if reader.summary and reader.summary.pairs > KEPT else None,
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


def _bytes(reader: CacheReader) -> int:
    if reader.summary is not None:
        return reader.summary.bytes
    return sum(row.bytes for row in reader.index.values())


def _view(reader: CacheReader, ranking: Ranking, view: View, skip: int, seed: int) -> _Chosen:
    if view == "failed":
        found = search.failed_pairs(reader)
        return _Chosen("Failed pairs", list(islice(found, skip, skip + CARDS + 1)))
    if view == "random":
        ranked = ranking(reader)
        ranks = np.random.default_rng(seed).permutation(len(ranked.similarity))[:CARDS].tolist()
        pairs = similarity.pairs_at(reader, ranked, ranks)
        return _Chosen("A random sample", pairs, ranked=ranked)
    highest = view == "highest"
    pairs, _ = similarity.by_rank(reader, ranking, skip, CARDS + 1, highest=highest)
    return _Chosen("Highest similarity" if highest else "Lowest similarity", pairs)


def _between(
    reader: CacheReader, ranking: Ranking, low: float | None, high: float | None, skip: int
) -> _Chosen:
    ranked = ranking(reader)
    values = ranked.similarity
    first = 0 if low is None else int(np.searchsorted(values, np.float32(low), "left"))
    last = len(values) if high is None else int(np.searchsorted(values, np.float32(high), "right"))
    ranks = range(first + skip, min(first + skip + CARDS + 1, last))
    ends = ["" if end is None else f"{end:.3f}" for end in (low, high)]
    count = counted(max(0, last - first), "pair")
    title = f"Similarity {' to '.join(ends).strip()}: {count}"
    return _Chosen(title, similarity.pairs_at(reader, ranked, ranks), ranked=ranked)


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


def _histogram(reader: CacheReader, ranking: Ranking) -> dict[str, Any] | None:
    """Bars with their places in percent; None without pairs."""
    summary = reader.summary
    if summary is not None:
        return _drawn(*_bars(summary), summary.quantile(0.5) or 0.0) if summary.pairs else None
    values = ranking(reader).similarity
    if not len(values):
        return None
    edges = np.linspace(values[0], values[-1], _BARS + 1, dtype=np.float32)
    return _drawn(np.histogram(values, bins=edges)[0], edges, float(np.median(values)))


def _bars(summary: Summary) -> tuple[np.ndarray, np.ndarray]:
    """As many bins a bar as make at most so many bars, and their edges."""
    bins = len(summary.counts)
    width = -(-bins // _BARS)
    counts = np.add.reduceat(np.array(summary.counts), np.arange(0, bins, width))
    places = summary.first_bin + width * np.arange(len(counts) + 1)
    edges = (places * (2 / BINS) - 1).astype(np.float32)
    edges[0] = summary.lowest[0].similarity
    edges[-1] = summary.highest[0].similarity
    return counts, edges


def _drawn(counts: np.ndarray, edges: np.ndarray, median: float) -> dict[str, Any]:
    below = np.nextafter(edges, np.float32(-np.inf))  # the next bar's pairs are not this one's
    below[-1] = edges[-1]
    low, high, most = float(edges[0]), float(edges[-1]), int(counts.max())
    bars = [
        {
            "count": int(count),
            "height": 100 * int(count) / most,
            "left": 100 * number / len(counts),
            "low": float(edges[number]),
            "high": float(below[number + 1]),
        }
        for number, count in enumerate(counts)
    ]
    return {
        "bars": bars,
        "width": 100 / len(counts),
        "low": low,
        "high": high,
        "median": median,
        "median_at": place(median, low, high),
        "x": ticks(low, high),
        "y": ticks(0, most, least=1)[1:],
    }
