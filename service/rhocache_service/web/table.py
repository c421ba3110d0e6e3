"""What a job over a cache has made, as its page shows it: from the summary alone."""

from dataclasses import dataclass

from rhocache_schemas.table.documents import Histogram, TableManifest
from rhocache_service.web.charts import Tick, place, ticks


@dataclass(frozen=True, slots=True)
class Bar:
    left: float  # percent
    height: float  # percent
    told: str


@dataclass(frozen=True, slots=True)
class Bars:
    column: str
    description: str
    width: float  # percent, of a bar
    bars: list[Bar]
    x: list[Tick]
    y: list[Tick]


@dataclass(frozen=True, slots=True)
class Shown:
    manifest: TableManifest
    template: list[str]  # the kind's own, if there is one, before that of all
    histograms: list[Bars]


def shown(manifest: TableManifest) -> Shown:
    described = {column.name: column.description for column in manifest.columns}
    histograms = [
        _bars(each, described.get(each.column, "")) for each in manifest.summary.histograms
    ]
    template = [f"table_{manifest.spec.kind}.html", "table.html"]
    return Shown(manifest, template, histograms)


def _bars(histogram: Histogram, description: str) -> Bars:
    count, most = len(histogram.counts), max(histogram.counts, default=0) or 1
    step = (histogram.high - histogram.low) / count
    bars = [
        Bar(
            left=100 * number / count,
            height=place(pairs, 0, 1.08 * most),
            told=f"{pairs:,} from {histogram.low + number * step:.4g} to "
            f"{histogram.low + (number + 1) * step:.4g}",
        )
        for number, pairs in enumerate(histogram.counts)
        if pairs
    ]
    return Bars(
        histogram.column,
        description,
        100 / count,
        bars,
        ticks(histogram.low, histogram.high),
        ticks(0, 1.08 * most, least=1),
    )
