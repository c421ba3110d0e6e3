"""A report on training runs: one HTML file that explains steering and needs nothing else."""

import math
from collections.abc import Sequence
from pathlib import Path

import jinja2

from rhocache_schemas import storage
from rhocache_trainer.report.plots import draw, swatch
from rhocache_trainer.report.run import Run, read_run


def write_report(runs: Sequence[str | Path], out: str | Path) -> None:
    """Draw the folders of training runs over one another, in the HTML file ``out``.

    A folder needs its ``log.jsonl``. What else is there is shown too: ``config.yaml``,
    ``heaviest.json`` with its pictures, and ``evaluation.json``, the output of
    ``rhocache evaluate --json``.

    Raises InvalidInput for a folder without a log or with an empty one, InvalidDocument for files
    that are something else.
    """
    read = [
        read_run(Path(storage.plain(folder) if isinstance(folder, str) else folder))
        for folder in runs
    ]
    names = [run.folder.resolve().name for run in read]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in read]
    page = _template().render(
        runs=[
            {"name": name, "swatch": swatch(number), "run": run}
            for number, (name, run) in enumerate(zip(names, read, strict=True))
        ],
        plots=draw(read),
        settings=_settings(read),
    )
    # A folder's name need not be UTF-8.
    storage.write_atomic(str(out), page.encode(errors="replace"))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["percent"] = _percent
    return environment.get_template("report.html.j2")


def _settings(runs: Sequence[Run]) -> list[tuple[str, list[str], bool]]:
    """Each setting with its value in every run, and whether they differ; those that do first."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    rows = [(name, [run.settings.get(name, "") for run in runs]) for name in names]
    return sorted(
        ((name, values, len(set(values)) > 1) for name, values in rows), key=lambda row: not row[2]
    )


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
