"""The figure: a row for each problem, a column for each study."""

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.theory.statistics import Array

TITLES = {
    "n": "reference from m = 16,384 samples",
    "biased": "biased reference",
    "n = 2√m": "n = 2√m",
    "variance": "variance term at θ*, ρ = 1, n = 2√m",
}
STYLES = {
    "reference": ("black", ":"),
    "ERM": ("tab:red", "-"),
    "DRRHO, ρ = 1": ("tab:cyan", "-"),
    "DRRHO, ρ = 3": ("tab:blue", "-"),
    "DRRHO, ρ = 10": ("tab:purple", "-"),
    "without a reference": ("tab:red", "-"),
    "with the reference": ("tab:blue", "-"),
}
# The same numbers give the same file; text stays text, which is a third of the size.
SETTINGS = {"svg.hashsalt": "theory", "svg.fonttype": "none"}
LOW_LEGENDS = ("biased", "n = 2√m")
WITH_SLOPES = ("n = 2√m", "variance")

Curves = dict[str, tuple[Array, Array, Array]]  # method → sizes, bands [3, sizes], slope [3]


def draw(path: Path, curves: dict[tuple[str, str], Curves]) -> None:
    """``curves`` has one entry for each (problem, study)."""
    with mpl.rc_context(SETTINGS):
        _figure(curves).savefig(path, metadata={"Date": None})


def _figure(curves: dict[tuple[str, str], Curves]) -> Figure:
    problems = list(dict.fromkeys(problem for problem, _ in curves))
    figure, axes = plt.subplots(len(problems), len(TITLES), figsize=(16, 7.5), squeeze=False)
    for row, problem in zip(axes, problems, strict=True):
        for axis, study in zip(row, TITLES, strict=True):
            _panel(axis, study, curves[problem, study])
            axis.set_title(f"{problem}\n{TITLES[study]}", fontsize=10)
    figure.tight_layout()
    return figure


def _panel(axis: Axes, study: str, curves: Curves) -> None:
    for method, (sizes, (mean, low, high), slope) in curves.items():
        colour, line = STYLES[method]
        label = f"{method}: slope {slope[0]:.2f}" if study in WITH_SLOPES else method
        axis.plot(sizes, mean, line, color=colour, marker=".", label=label)
        axis.fill_between(sizes, low, high, color=colour, alpha=0.2, linewidth=0)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("m, samples of the reference" if study in WITH_SLOPES else "n, samples")
    axis.set_ylabel("variance term" if study == "variance" else "excess risk")
    axis.grid(alpha=0.3)
    axis.margins(y=0.3)  # for the legend
    axis.legend(fontsize=8, loc="lower left" if study in LOW_LEGENDS else "upper right")
    axis.minorticks_off()
