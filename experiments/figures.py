"""A study's figure: an SVG that is readable in light and dark."""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, product
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.compute import errors_by_compute
from experiments.laws import power_law
from experiments.study import AS_IT_IS, Study, Value
from experiments.summary import Estimate, Point, Summary, estimate

# Between black and white, so that they are seen on either; text stays text in the file.
GREY = "#808080"
BAR = "#d62728"
# The arms that most studies have are of one colour everywhere; all others take these in turn.
OWN = {
    "plain CLIP": "#d62728",
    "DRRHO": "#1f77b4",
    "DRRHO + distillation": "#2ca02c",
    "distillation": "#9467bd",
}
COLOURS = ["#ff7f0e", "#17becf", "#e377c2", "#8c6d31"]
SETTINGS: Any = {"svg.hashsalt": "rhocache", "svg.fonttype": "none"} | dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY
)


def draw(path: Path, study: Study, summary: Summary, measure_name: str) -> None:
    """Draw the study's measure as ``study.figure`` says."""
    parts, bars = _panels(study), study.figure == "bars"
    with mpl.rc_context(SETTINGS):
        height = 1.3 + 0.27 * len(summary.arms) if bars else 4.2
        width = 8 if len(parts) == 1 else 10
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        every = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
        for axes, part in zip(every, parts, strict=True):
            axes.patch.set_alpha(0)
            axes.grid(alpha=0.3)
            DRAWN[study.figure](axes, study, summary, part)
            if len(parts) > 1:
                named = ", ".join(f"{axis} {value}" for axis, value in part.items())
                axes.set_title(fill(named, 80 // len(parts)), fontsize="medium")
        if bars:
            figure.supxlabel(f"{measure_name}, %", color=GREY)
        else:
            of = f"100 less {measure_name}" if study.figure == "compute" else measure_name
            every[0].set_ylabel(f"{of}, %")
        _legend(figure, every[0])
        figure.suptitle(study.title, color=GREY)
        figure.savefig(path, metadata={"Date": None}, transparent=True)


def _panels(study: Study) -> list[dict[str, Value]]:
    """One for each value of the axis that is not drawn along, where there is one."""
    drawn_along = 0 if study.figure in ("bars", "teachers") else 1
    rest = list(study.grid.items())[drawn_along:]
    return [{axis: value} for axis, values in rest for value in values] or [{}]


def _in(part: dict[str, Value], point: Point) -> bool:
    return part.items() <= dict(point).items()


def _curves(axes: Axes, study: Study, summary: Summary, part: dict[str, Value]) -> None:
    """The measure over the grid's first axis, a line for each arm."""
    axis, values = next(iter(study.grid.items()))
    numeric = all(isinstance(value, int | float) for value in values)
    places = {value: float(value) if numeric else n for n, value in enumerate(values)}
    points = [point for point in summary.points if _in(part, point)]
    for arm, colour, marker in _coloured(summary.arms):
        for reference in summary.references or [None]:
            found = [
                (places[dict(point)[axis]], found_there)
                for point in points
                if (found_there := summary.at((reference, point, arm), study.measure))
            ]
            _line(axes, found, colour, marker, arm)
    for reference in summary.references:
        if as_it_is := summary.at((reference, (), AS_IT_IS), study.measure):
            axes.axhline(as_it_is.mean, color=GREY, linestyle=":", label=AS_IT_IS)
    if numeric:
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
    axes.set_xticks(list(places.values()), list(map(str, values)))
    axes.set_xlabel(axis)


def _bars(axes: Axes, study: Study, summary: Summary, part: dict[str, Value]) -> None:
    """A bar for each arm, the first one on top."""
    reference = next(iter(summary.references), None)
    point = next(point for point in summary.points if _in(part, point))
    for place, arm in enumerate(summary.arms):
        colour = "#a8a8a8" if arm == study.baseline else BAR
        if share := summary.at((reference, point, arm), study.measure):
            axes.barh(
                place, share.mean, xerr=_half(share), color=colour, ecolor="#606060", capsize=3
            )
    if as_it_is := summary.at((reference, (), AS_IT_IS), study.measure):
        axes.axvline(as_it_is.mean, color=GREY, linestyle=":", label=AS_IT_IS)
    axes.set_yticks(range(len(summary.arms)), summary.arms)
    axes.set_ylim(len(summary.arms) - 0.4, -0.6)


def _teachers(axes: Axes, study: Study, summary: Summary, part: dict[str, Value]) -> None:
    """The measure over that of the reference itself."""
    point = next(point for point in summary.points if _in(part, point))
    own = {name: summary.at((name, (), AS_IT_IS), study.measure) for name in summary.references}
    known = {name: share.mean for name, share in own.items() if share is not None}
    for arm, colour, marker in _coloured(summary.arms):
        found = [
            (own, found_there)
            for name, own in sorted(known.items(), key=lambda item: item[1])
            if (found_there := summary.at((name, point, arm), study.measure))
        ]
        _line(axes, found, colour, marker, arm)
    ends = [min(known.values()), max(known.values())]
    axes.plot(ends, ends, color=GREY, linestyle=":", label="as good as its reference")
    axes.set_xlabel("the reference's own, %")


def _compute(axes: Axes, study: Study, summary: Summary, part: dict[str, Value]) -> None:
    """100% less the measure over the training's FLOPs, with the power law that fits."""
    points = [point for point in summary.points if _in(part, point)]
    for arm, colour, marker in _coloured(summary.arms):
        flops, errors = errors_by_compute(study, summary, arm, points)
        estimates = [(flop, estimate(row)) for flop, row in zip(flops, errors, strict=True)]
        law = power_law(flops, errors)
        _line(axes, estimates, colour, marker, f"{arm}: exponent {law.exponent}", linestyle="")
        axes.plot(flops, 100 * law.factor * flops**law.exponent.value, color=colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("floating-point operations of the training")


def _legend(figure: Figure, axes: Axes) -> None:
    """Beside the panels, each line once."""
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(once.values(), once, loc="outside right center", framealpha=0, fontsize="small")


def _coloured(arms: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Arms with a colour and a marker, which differs where a colour comes again."""
    others = cycle(product("os^", COLOURS))
    for arm in arms:
        marker, colour = ("o", OWN[arm]) if arm in OWN else next(others)
        yield arm, colour, marker


def _line(
    axes: Axes,
    found: Sequence[tuple[float, Estimate]],
    colour: str,
    marker: str,
    label: str,
    linestyle: str = "-",
) -> None:
    where = [place for place, _ in found]
    means = [share.mean for _, share in found]
    halves = [_half(share) for _, share in found]
    axes.errorbar(
        where,
        means,
        halves,
        color=colour,
        marker=marker,
        capsize=3,
        label=label,
        linestyle=linestyle,
    )


def _half(share: Estimate) -> float:
    return share.half_width if share.seeds > 1 else 0


DRAWN: dict[str, Callable[[Axes, Study, Summary, dict[str, Value]], None]] = {
    "curves": _curves,
    "bars": _bars,
    "teachers": _teachers,
    "compute": _compute,
}
