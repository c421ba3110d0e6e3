"""The curves of a report, as SVG to be put into a page."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rhocache_trainer.report.run import Run

# Okabe and Ito's colours that show on white and on black.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_DASHES = ("", "6 2", "2 2", "8 2 2 2")
_INK = "#010203"  # stands for the page's own text colour
_POINTS = 800  # of a curve, at most


@dataclass(frozen=True, slots=True)
class Plot:
    title: str
    text: str  # what it says, for people who have not read the paper
    line: str  # name in the log
    thin: str | None = None  # another, drawn thinner
    band: tuple[str, str] | None = None  # shaded between the two
    limits: tuple[float, float] | None = None
    zero: bool = False  # mark 0


PLOTS = (
    Plot(
        "Objective",
        "What training minimises. Runs can be compared by it where they share the objective, ρ and "
        "the way that τ is found.",
        "objective",
    ),
    Plot("Accuracy", "Share of a batch's images that the classifier has right.", "accuracy"),
    Plot(
        "Effective sample size",
        "How evenly the weight is spread over a batch's negatives. Near 1 all of them count the "
        "same, so there is little steering. Near 0 a few have nearly all of the weight: steering "
        "is strong, but the gradients are noisy. A higher τ spreads the weight.",
        "effective_sample_size",
        limits=(0, 1),
    ),
    Plot(
        "Residual δ",
        "How much closer the target takes a negative to be than the reference does, each measured "
        "from the true pair: δ = (s_ij − s_ii) − (r_ij − r_ii). Above 0 the target is behind the "
        "reference, and there the weight goes; below 0 it is ahead. The line is the mean, the "
        "thin one the median, and the band holds all but the lowest and highest twentieth. Without "
        "a reference r is 0.",
        "delta_mean",
        thin="delta_p50",
        band=("delta_p05", "delta_p95"),
        zero=True,
    ),
    Plot(
        "Temperature τ",
        "A negative's weight is proportional to exp(δ/τ), so a lower τ puts more of it on the "
        "negatives with the largest δ. The thin line is the text side's, where it has its own.",
        "tau",
        thin="tau_text",
    ),
    Plot(
        "Divergence of the weights",
        "KL divergence of a batch's weights from uniform weights, mean over its images: 0 where "
        "all negatives weigh the same, and log(B−1) where one of B−1 has all of it. A learned τ "
        "falls while this is below ρ, and rises while it is above.",
        "divergence",
    ),
    Plot(
        "Estimate u",
        "u is a pair's average of exp(δ/τ) over its negatives, remembered from batch to batch; "
        "drawn is the mean of log u. Below 0 the target is ahead of the reference on average. "
        "Pairs with a large u are those that the target finds harder than the reference does.",
        "log_u_mean",
        zero=True,
    ),
    Plot(
        "Memory γ",
        "The share of u that each new batch replaces. 1 forgets all earlier batches; a smaller γ "
        "averages over more of them, and lags more behind the model.",
        "gamma",
    ),
    Plot("Learning rate", "Of the optimizer, after warmup and decay.", "lr"),
    Plot(
        "Gradient norm",
        "Before clipping. Peaks that come with a low effective sample size are the noise of few "
        "heavy negatives.",
        "gradient_norm",
    ),
    Plot("Speed", "Pairs a second, reading and decoding included.", "pairs_per_second"),
    Plot(
        "Pairs left out",
        "Unusable, or without a reference row, so far in the epoch.",
        "skipped",
    ),
)


@dataclass(frozen=True, slots=True)
class Drawn:
    plot: Plot
    svg: Markup


def draw(runs: Sequence[Run]) -> list[Drawn]:
    """Draw the plots for which any run has numbers."""
    return [
        Drawn(plot, _svg(plot, runs))
        for plot in PLOTS
        if any(run.last(plot.line) is not None for run in runs)
    ]


def swatch(number: int) -> Markup:
    """A run's line, for the legend."""
    colour, dashes = _style(number)
    return Markup(
        '<svg class="swatch" viewBox="0 0 32 8" aria-hidden="true"><line x1="0" x2="32" y1="4" '
        'y2="4" stroke="{}" stroke-width="3" stroke-dasharray="{}"/></svg>'
    ).format(colour, dashes)


def _style(number: int) -> tuple[str, str]:
    """Colour and SVG dashes of a run."""
    return (
        _COLOURS[number % len(_COLOURS)],
        _DASHES[number // len(_COLOURS) % len(_DASHES)],
    )


def _svg(plot: Plot, runs: Sequence[Run]) -> Markup:
    ink = dict.fromkeys(("text.color", "axes.edgecolor", "xtick.color", "ytick.color"), _INK)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.line, "font.size": 10, **ink}):
        figure = Figure(figsize=(5.4, 3), layout="constrained")
        axes = figure.subplots()
        for number, run in enumerate(runs):
            _curves(axes, plot, run, number)
        if plot.zero:
            axes.axhline(0, color=_INK, linewidth=0.8, alpha=0.5)
        if plot.limits:
            axes.set_ylim(*plot.limits)
        axes.set_xlabel("step", color=_INK)
        axes.grid(color=_INK, alpha=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # Several pictures share one page, and with it the names in it.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{plot.line}-", svg)
    return Markup(svg)  # noqa: S704 (drawn here, of numbers alone)


def _curves(axes: Axes, plot: Plot, run: Run, number: int) -> None:
    colour, dashes = _style(number)
    style = (0, tuple(map(float, dashes.split()))) if dashes else "-"
    if plot.band:
        steps, low, high = _known(run, *plot.band)
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    for name, width in ((plot.line, 1.6), (plot.thin, 0.8)):
        if name is not None:
            steps, values = _known(run, name)
            marker = "o" if len(steps) == 1 else None
            axes.plot(steps, values, color=colour, linestyle=style, linewidth=width, marker=marker)


def _known(run: Run, *names: str) -> list[npt.NDArray[np.number]]:
    """Steps, and the values of each name, where all are finite; a long run's are thinned."""
    columns = [run.values[name] for name in names]
    rows = np.flatnonzero(np.isfinite(columns).all(axis=0))
    if len(rows) > _POINTS:
        rows = rows[np.linspace(0, len(rows) - 1, _POINTS).round().astype(np.int64)]
    return [run.steps[rows], *(column[rows] for column in columns)]
