"""``python -m experiments``: do what is missing of studies, and write docs/results from them.

python -m experiments run demo --work WORK
python -m experiments run samples --work WORK --data ICONS --device cuda --processes 1
"""

import os
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from experiments import pages as results
from experiments.study import (
    Study,
    Trial,
    cache_of,
    identity,
    read_outcomes,
    run_trial,
    trials,
)

HERE = Path(__file__).parent
STUDIES = sorted(path.stem for path in (HERE / "studies").glob("*.yaml"))
RESULTS = HERE / "results"

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
    for name in names:
        study = Study.read(study_file(name), DATA=data)
        path = RESULTS / f"{name}.jsonl"
        done = read_outcomes(path)
        wanted = [
            trial
            for trial in trials(study)
            if trial.seed in study.seeds[:seeds] and identity(study, trial) not in done
        ]
        if wanted:
            _run(name, study, wanted, path, work, processes, device)


def _run(
    name: str,
    study: Study,
    wanted: list[Trial],
    path: Path,
    work: Path,
    processes: int,
    device: str,
) -> None:
    caches = {reference: cache_of(study, reference, work) for reference in study.references}
    for reference, cache in caches.items():
        _score(study, reference, cache)
    path.parent.mkdir(exist_ok=True)
    if path.exists():  # without the part of a line that an interrupted run may have left
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    context = get_context("spawn")
    with (
        Progress() as progress,
        path.open("a", buffering=1) as file,
        _pool(processes, context) as pool,
    ):
        task = progress.add_task(name, total=len(wanted))
        running = [pool.submit(run_trial, study, trial, caches, work, device) for trial in wanted]
        for future in as_completed(running):
            file.write(future.result().model_dump_json() + "\n")
            progress.advance(task)


@contextmanager
def _pool(processes: int, context: object) -> Generator[ProcessPoolExecutor]:
    """What has not begun when one fails, or at an interrupt, does not begin."""
    pool = ProcessPoolExecutor(processes, context)  # pyright: ignore[reportArgumentType]
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _score(study: Study, reference: str, cache: str) -> None:
    """Score what is missing: nothing, where it was done before."""
    command = [Path(sys.executable).with_name("rhocache"), "score", study.scored.dataset]
    options = ["--model", f"local-dir:{study.references[reference]}", "--out", cache]
    if study.scored.shards:
        options += ["--shards", study.scored.shards]
    subprocess.run([*command, *options], check=True)


@app.command()
def pages() -> None:
    """Write docs/results anew from the outcomes that are there."""
    for name in STUDIES:
        outcomes = list(read_outcomes(RESULTS / f"{name}.jsonl").values())
        if outcomes:
            results.write(name, Study.read(study_file(name)), outcomes)
    results.write_overview()


if __name__ == "__main__":
    app()
