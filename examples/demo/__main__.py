"""``make demo``: the whole product on 2,048 real pairs, in the commands that a user would type."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from examples.demo import report
from examples.demo.service import running_service
from rhocache import Client
from rhocache_trainer import EvaluationResult, evaluate, load_config
from rhocache_trainer.run_folder import RunFolder

DATASET = "examples/icons"
TRAIN_SHARDS, TEST_SHARD = "0000[01].tar", "00002.tar"
RELEASED = Path("examples/reference")
FOLDER = Path("demo")
REFERENCE = FOLDER / "reference"
MOVED_AWAY = FOLDER / "moved-away"
CACHE = FOLDER / "cache"
TARGETS = {"clip": "plain CLIP", "drrho": "DRRHO"}

COLUMNS = (
    TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"),
    TimeElapsedColumn(),
)  # fmt: skip

console = Console()


def main() -> None:
    started = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    shutil.copytree(RELEASED, REFERENCE)
    seconds: dict[str, float] = {}

    with (
        step("1/4  Score the pairs with the released reference: a job over REST", seconds, "score"),
        running_service(FOLDER / "service") as url,
    ):
        rhocache(
            "submit", DATASET, "--shards", TRAIN_SHARDS, "--model", f"local-dir:{REFERENCE}",
            "--out", str(CACHE), "--url", url, "--wait",
        )  # fmt: skip
        with Client(url) as client:
            manifest = client.jobs.manifest(client.jobs.list().data[0].id)
    results = {"the reference": held_out(REFERENCE)}

    with step("2/4  Move the reference away", seconds):
        REFERENCE.rename(MOVED_AWAY)
        console.print(f"{REFERENCE} is gone: from here on there is only the cache")

    with step("3/4  Train a model from scratch twice: plain CLIP, and DRRHO", seconds, "train"):
        train_at_once(TARGETS)

    with step("4/4  Compare on icons of other sets, in styles never seen", seconds, "evaluate"):
        for folder, name in TARGETS.items():
            results[name] = held_out(FOLDER / folder / "model")
        console.print(report.rich_table(results))
        path = report.write(FOLDER, DATASET, manifest, results, seconds)
    console.print(f"\nDone in {time.monotonic() - started:.0f} s. Open [bold]{path}[/bold]")


def rhocache(*arguments: str) -> None:
    """Run the command as a user would, and stop the demo where it fails."""
    _show(arguments)
    _check(arguments, subprocess.run([_executable(), *arguments], check=False).returncode)


def train_at_once(names: Iterable[str]) -> None:
    """Train by each config, in a process that has one core: a small model makes no use of more."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(*COLUMNS, console=console))
        running: dict[TaskID, tuple[tuple[str, ...], RunFolder, subprocess.Popen[bytes]]] = {}
        for name in names:
            arguments = ("train", f"examples/configs/{name}.yaml")
            _show(arguments)
            config = load_config(arguments[1])
            told = stack.enter_context((FOLDER / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                [_executable(), *arguments], env=environment, stdout=told, stderr=told
            )
            task = progress.add_task(name, total=config.epochs)
            running[task] = arguments, RunFolder(Path(config.output)), process
        while running:
            time.sleep(0.2)
            for task, (arguments, run, process) in list(running.items()):
                if records := run.read_log():
                    progress.update(task, completed=records[-1].epoch + 1)
                if process.poll() is not None:
                    _check(arguments, process.returncode)
                    del running[task]


def _executable() -> Path:
    return Path(sys.executable).with_name("rhocache")


def _show(arguments: tuple[str, ...]) -> None:
    console.print(f"[dim]$ {shlex.join(('rhocache', *arguments))}[/dim]", highlight=False)


def _check(arguments: tuple[str, ...], status: int) -> None:
    if status:
        sys.exit(f"demo: {shlex.join(('rhocache', *arguments))} ended with status {status}")


def held_out(model: Path) -> EvaluationResult:
    return evaluate(str(model), DATASET, shards=TEST_SHARD, class_field="concept", templates="name")


@contextmanager
def step(title: str, seconds: dict[str, float], name: str | None = None) -> Iterator[None]:
    console.rule(f"[bold]{title}", align="left")
    started = time.monotonic()
    yield
    if name:
        seconds[name] = time.monotonic() - started


if __name__ == "__main__":
    main()
