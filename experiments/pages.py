"""docs/results: a page for each study, with a table and a figure, made from its outcomes alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from experiments.study import AS_IT_IS, Outcome, Study, Value
from experiments.summary import Estimate, Place, Summary

HERE = Path(__file__).parent
PAGES = HERE.parent / "docs" / "results"
README = HERE.parent / "README.md"
FRONT = "demo"  # the study that the README shows
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
MEASURES = {
    "zero_shot": "zero-shot",
    "mean_recall": "mean recall",
    "image_to_text@1": "image→text R@1",
    "text_to_image@1": "text→image R@1",
}
# Between black and white, so that they are seen on either; text stays text in the file.
GREY = "#808080"
COLOURS = ["#888888", "#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#e377c2"]
SETTINGS: Any = {"svg.hashsalt": "rhocache", "svg.fonttype": "none"} | dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY
)


def write(name: str, study: Study, outcomes: Sequence[Outcome]) -> None:
    """Write a study's page and figure. Equal outcomes give equal bytes."""
    summary = Summary(outcomes, study.baseline)
    environment = _environment()
    rows, last = _rows(summary, study.measure), dict(summary.points[-1])
    about = {
        "study": study,
        "name": name,
        "rows": rows,
        "last": [row for row in rows if row["point"] in ({}, last)],
        "measures": MEASURES,
        "seen": sentences(study, outcomes),
    }
    PAGES.mkdir(parents=True, exist_ok=True)
    page = environment.get_template("page.md.j2").render(about)
    (PAGES / f"{name}.md").write_text(page)
    if name == FRONT:
        _put_into(README, environment.get_template("front.md.j2").render(about))
    draw(PAGES / f"{name}.svg", study, summary)


def sentences(study: Study, outcomes: Sequence[Outcome]) -> list[str]:
    """Say what was seen."""
    words = Words(study, Summary(outcomes, study.baseline))
    environment = _environment()
    return [
        environment.from_string(sentence).render(at=words.at, gain=words.gain)
        for sentence in study.seen
    ]


def _put_into(path: Path, text: str) -> None:
    """Replace what stands between the two comments of a page."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{path} has no {BEGIN} with an {END}")
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def write_overview() -> None:
    pages = {
        path.stem: path.read_text().splitlines()[0].removeprefix("# ")
        for path in sorted(PAGES.glob("*.md"))
        if path.stem != "README"
    }
    PAGES.mkdir(parents=True, exist_ok=True)
    page = _environment().get_template("overview.md.j2").render(pages=pages)
    (PAGES / "README.md").write_text(page)


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


class Words:
    """What a study's sentences are made of; values of the grid say at which point."""

    def __init__(self, study: Study, summary: Summary) -> None:
        self._measure = study.measure
        self._summary = summary

    def at(self, arm: str, measure: str | None = None, **values: Value) -> Estimate:
        found = self._summary.at(self._place(arm, values), measure or self._measure)
        assert found is not None, f"no outcome of {arm} at {values}"
        return found

    def gain(self, arm: str, measure: str | None = None, **values: Value) -> Estimate:
        """Over the baseline."""
        found = self._summary.difference(self._place(arm, values), measure or self._measure)
        assert found is not None, f"nothing to compare {arm} with at {values}"
        return found

    def _place(self, arm: str, values: dict[str, Value]) -> Place:
        reference = str(values.pop("reference", self._summary.references[0]))
        points = [()] if arm == AS_IT_IS else self._summary.points
        chosen = (point for point in points if values.items() <= dict(point).items())
        return reference, next(chosen), arm


def _rows(summary: Summary, measure: str) -> list[dict[str, object]]:
    several = len(summary.references) > 1
    rows: list[dict[str, object]] = []
    for place in summary.places:
        reference, point, arm = place
        gain = summary.difference(place, measure) if arm != AS_IT_IS else None
        rows.append(
            {
                "arm": f"{arm} ({reference})" if several else arm,
                "point": dict(point),
                "found": {measure: summary.at(place, measure) for measure in MEASURES},
                "gain": gain,
            }
        )
    return rows


def draw(path: Path, study: Study, summary: Summary) -> None:
    """The study's measure: over the grid's first axis, or a bar for each arm where it has none."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(7, 4), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        axes.grid(alpha=0.3)
        axes.set_ylabel(f"{MEASURES[study.measure]}, %")
        axes.set_title(study.title)
        (_curves if study.grid else _bars)(axes, study, summary)
        figure.savefig(path, metadata={"Date": None}, transparent=True)


def _curves(axes: Axes, study: Study, summary: Summary) -> None:
    axis = next(iter(study.grid))
    for reference in summary.references:
        for arm, colour in zip(summary.arms, COLOURS[1:], strict=False):
            found = [
                (dict(point)[axis], estimate)
                for point in summary.points
                if (estimate := summary.at((reference, point, arm), study.measure))
            ]
            where = [float(value) for value, _ in found]
            low_high = [0 if estimate.seeds < 2 else estimate.half_width for _, estimate in found]
            means = [estimate.mean for _, estimate in found]
            axes.errorbar(where, means, low_high, color=colour, marker="o", capsize=3, label=arm)
        if as_it_is := summary.at((reference, (), AS_IT_IS), study.measure):
            axes.axhline(as_it_is.mean, color=COLOURS[0], linestyle=":", label=AS_IT_IS)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(map(float, study.grid[axis])), list(map(str, study.grid[axis])))
    axes.set_xlabel(axis)
    axes.legend(framealpha=0)


def _bars(axes: Axes, study: Study, summary: Summary) -> None:
    reference = summary.references[0]
    for place, (arm, colour) in enumerate(zip(summary.arms, COLOURS[1:] * 3, strict=False)):
        estimate = summary.at((reference, (), arm), study.measure)
        if estimate is not None:
            width = 0 if estimate.seeds < 2 else estimate.half_width
            axes.bar(place, estimate.mean, yerr=width, color=colour, capsize=3, ecolor=GREY)
    if as_it_is := summary.at((reference, (), AS_IT_IS), study.measure):
        axes.axhline(as_it_is.mean, color=COLOURS[0], linestyle=":")
        left = blended_transform_factory(axes.transAxes, axes.transData)
        axes.text(0.02, as_it_is.mean, AS_IT_IS, transform=left, va="bottom")
        axes.margins(y=0.1)
    axes.set_xticks(range(len(summary.arms)), summary.arms, rotation=20, ha="right")
