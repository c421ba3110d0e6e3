"""docs/results: a page for each study, with a table and a figure, made from its outcomes alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.cost.cost import Cost
from experiments.figures import draw
from experiments.study import AS_IT_IS, Outcome, Study
from experiments.summary import Summary
from experiments.words import Words

HERE = Path(__file__).parent
PAGES = HERE.parent / "docs" / "results"
README = HERE.parent / "README.md"
FRONT = "samples-long"  # the study that the README shows
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
MEASURES = {
    "zero_shot": "zero-shot",
    "mean_recall": "mean recall",
    "image_to_text@1": "image→text R@1",
    "text_to_image@1": "text→image R@1",
    "accuracy": "accuracy",
    "class_mean": "mean of the classes",
    "worst_classes": "worst tenth of the classes",
}


@dataclass(frozen=True, slots=True)
class Written:
    """A page that is there, and what the overview says of it."""

    name: str
    title: str
    seen: list[str]
    words: dict[str, Callable[..., Any]]


def write(name: str, study: Study, outcomes: Sequence[Outcome]) -> Written:
    """Write a study's page and figure. Equal outcomes give equal bytes."""
    summary = Summary(outcomes, study.baseline)
    words = Words(study, summary).known()
    seen = _said(study, words)
    shown = {key: text for key, text in MEASURES.items() if key in outcomes[0].measures}
    rows, last = _rows(summary, study.measure, shown), dict(summary.points[-1])
    about = {
        "study": study,
        "name": name,
        "rows": rows,
        "last": [row for row in rows if row["point"] in ({}, last)],
        "measures": shown,
        "seen": seen,
    }
    templates = environment()
    PAGES.mkdir(parents=True, exist_ok=True)
    page = templates.get_template("page.md.j2").render(about)
    (PAGES / f"{name}.md").write_text(page)
    if name == FRONT:
        _put_into(README, templates.get_template("front.md.j2").render(about))
    draw(PAGES / f"{name}.svg", study, summary, MEASURES[study.measure])
    return Written(name, study.title, seen, words)


def sentences(study: Study, outcomes: Sequence[Outcome]) -> list[str]:
    """Say what was seen."""
    return _said(study, Words(study, Summary(outcomes, study.baseline)).known())


def _said(study: Study, words: dict[str, Callable[..., Any]]) -> list[str]:
    templates = environment()
    return [templates.from_string(sentence).render(words) for sentence in study.seen]


def _put_into(path: Path, text: str) -> None:
    """Replace what stands between the two comments of a page."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{path} has no {BEGIN} with an {END}")
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def write_overview(written: Sequence[Written], costs: Sequence[Cost]) -> None:
    """Write docs/results/README.md: the pages, each with the first sentence of what was seen."""
    pages = [(each.name, each.title, each.seen[0]) for each in written]
    studies = {each.name: each.words for each in written}
    PAGES.mkdir(parents=True, exist_ok=True)
    page = (
        environment()
        .get_template("overview.md.j2")
        .render(pages=pages, studies=studies, costs=costs)
    )
    (PAGES / "README.md").write_text(page)


def environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["median"] = median
    return found


def _rows(summary: Summary, measure: str, shown: dict[str, str]) -> list[dict[str, object]]:
    several = len(summary.references) > 1
    rows: list[dict[str, object]] = []
    for place in summary.places:
        reference, point, arm = place
        gain = summary.difference(place, measure) if arm != AS_IT_IS else None
        rows.append(
            {
                "arm": f"{arm} ({reference})" if several and reference else arm,
                "point": dict(point),
                "found": {measure: summary.at(place, measure) for measure in shown},
                "gain": gain,
                "seeds": len(summary.outcomes(place)),
            }
        )
    return rows
