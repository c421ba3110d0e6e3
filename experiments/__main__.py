"""``python -m experiments``: do what is missing of studies, and write docs/results from them.

python -m experiments run demo --work WORK
python -m experiments run samples --work WORK --data ICONS --device cuda --processes 1
"""

import os
import signal
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from experiments import pages as results
from experiments.cost import page as cost_page
from experiments.study import (
    Outcome,
    Study,
    Trial,
    identity,
    names_in,
    outcomes_of,
    read_outcomes,
    trials,
)
from experiments.trial import Workshop

HERE = Path(__file__).parent
STUDIES = sorted(path.stem for path in (HERE / "studies").glob("*.yaml"))
RESULTS = HERE / "results"
COSTS = HERE / "cost" / "measured.jsonl"

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def study_file(name: str) -> Path:
    return HERE / "studies" / f"{name}.yaml"


@app.command()
def run(
    names: Annotated[list[str], typer.Argument(help=f"of {', '.join(STUDIES)}")],
    work: Annotated[Path, typer.Option(help="For caches and runs.")],
    data: Annotated[str, typer.Option(help="What DATA stands for in the studies.")] = "",
    processes: Annotated[int, typer.Option(help="Trials at once.")] = 2,
    device: Annotated[str, typer.Option()] = "cpu",
    seeds: Annotated[int | None, typer.Option(help="The first so many; default: all.")] = None,
) -> None:
    """Do the trials that have no outcome yet; interrupt it and run it again."""
    if device == "cpu":
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started: one core a trial
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # trials that run are finished
    workshop = Workshop(work.resolve(), data, device)
    if unknown := [name for name in names if not study_file(name).exists()]:
        raise typer.BadParameter(
            f"there is no study {unknown[0]}; it is one of {', '.join(STUDIES)}"
        )
    for name in names:
        study = Study.read(study_file(name))
        if not data and "DATA" in names_in([study.model_dump_json()]):
            raise typer.BadParameter(
                f"{name} needs the icons: say where they are", param_hint="--data"
            )
        path = RESULTS / f"{name}.jsonl"
        _end_at_a_line(path)
        done, elsewhere = read_outcomes(path), _elsewhere(path)
        missing: list[Trial] = []
        with path.open("a") as file:
            for trial in trials(study):
                known_as = identity(study, trial)
                if trial.seed not in study.seeds[:seeds] or known_as in done:
                    continue
                if known_as in elsewhere:
                    found = elsewhere[known_as].model_copy(update={"trial": trial})
                    file.write(found.model_dump_json() + "\n")
                else:
                    missing.append(trial)
        if missing:
            _do(name, study, missing, path, workshop, processes)


def _do(
    name: str, study: Study, missing: list[Trial], path: Path, workshop: Workshop, processes: int
) -> None:
    context = get_context("spawn")
    with (
        Progress() as progress,
        path.open("a", buffering=1) as file,
        _pool(processes, context) as pool,
    ):
        used = {trial.reference for trial in missing if trial.reference is not None}
        list(pool.map(workshop.reference, [study.references[each] for each in sorted(used)]))
        for trial in missing:
            workshop.places(study, trial)
        task = progress.add_task(name, total=len(missing))
        running = [pool.submit(workshop.do, study, trial) for trial in missing]
        for future in as_completed(running):
            file.write(future.result().model_dump_json() + "\n")
            progress.advance(task)


def _elsewhere(path: Path) -> dict[str, Outcome]:
    """The outcomes of other studies: a trial that one of them has done is not done again."""
    found: dict[str, Outcome] = {}
    for other in sorted(RESULTS.glob("*.jsonl")):
        found |= {} if other == path else read_outcomes(other)
    return found


def _end_at_a_line(path: Path) -> None:
    """Cut off the part of a line that an interrupted run may have left."""
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


@contextmanager
def _pool(processes: int, context: object) -> Generator[ProcessPoolExecutor]:
    """What has not begun when one fails, or at an interrupt, does not begin."""
    pool = ProcessPoolExecutor(processes, context)  # pyright: ignore[reportArgumentType]
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@app.command()
def cost(
    setup: Annotated[Path, typer.Option()] = HERE / "cost" / "setup.yaml",
    out: Annotated[Path, typer.Option(help="Lines of measurements.")] = COSTS,
    device: Annotated[str, typer.Option()] = "cpu",
) -> None:
    """Measure what a training costs with a cached and with a live reference."""
    from experiments.cost.measure import Setup, measure

    asked = Setup.read(setup)
    found = [measure(pair, asked.rounds, device) for pair in asked.measured]
    out.write_text("".join(f"{each.model_dump_json()}\n" for each in found))


@app.command()
def pages() -> None:
    """Write docs/results anew, of the studies that have every trial of their first seed."""
    written: list[results.Written] = []
    for name in STUDIES:
        study = Study.read(study_file(name))
        outcomes = outcomes_of(study, RESULTS / f"{name}.jsonl")
        first = [trial for trial in trials(study) if trial.seed == study.seeds[0]]
        done = [outcome.trial for outcome in outcomes]
        if all(trial in done for trial in first):
            written.append(results.write(name, study, outcomes))
    costs = cost_page.read(COSTS)
    cost_page.write(results.PAGES, results.environment(), costs)
    results.write_overview(written, costs)


if __name__ == "__main__":
    app()
