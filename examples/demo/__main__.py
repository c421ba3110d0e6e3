"""``make demo``: the whole product on 2,048 real pairs, in the commands that a user would type."""

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from examples.demo import report
from examples.demo.service import running_service
from rhocache import Client
from rhocache_trainer import EvaluationResult, evaluate

DATASET = "examples/openclipart"
TEST_SHARD = "00003.tar"
FOLDER = Path("demo")
REFERENCE = FOLDER / "reference" / "model"
MOVED_AWAY = FOLDER / "moved-away"
CACHE = FOLDER / "cache"

console = Console()


def main() -> None:
    started = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    seconds: dict[str, float] = {}

    with step(
        "1/5  Train a small reference by plain CLIP on half of the pairs", seconds, "reference"
    ):
        rhocache("train", "examples/configs/reference.yaml")
    results = {"reference": held_out(REFERENCE)}

    with (
        step("2/5  Score all pairs with it: a job over REST", seconds, "score"),
        running_service(FOLDER / "service") as url,
    ):
        rhocache(
            "submit", DATASET, "--model", f"local-dir:{REFERENCE}", "--out", str(CACHE),
            "--url", url, "--wait",
        )  # fmt: skip
        with Client(url) as client:
            manifest = client.jobs.manifest(client.jobs.list().data[0].id)
        rhocache("inspect", str(CACHE))

    with step("3/5  Move the reference's folder away", seconds):
        REFERENCE.rename(MOVED_AWAY)
        console.print(f"{REFERENCE} is gone: from here on there is only the cache")

    with step("4/5  Train a larger target twice: plain CLIP, then DRRHO", seconds):
        for name in ("clip", "drrho"):
            with timed(seconds, name):
                rhocache("train", f"examples/configs/{name}.yaml")

    with step("5/5  Compare on held-out pairs", seconds, "evaluate"):
        results["plain CLIP"] = held_out(FOLDER / "clip" / "model")
        results["DRRHO"] = held_out(FOLDER / "drrho" / "model")
        console.print(report.rich_table(results))
        path = report.write(FOLDER, DATASET, TEST_SHARD, manifest, results, seconds)
    MOVED_AWAY.rename(REFERENCE)  # the README's commands use it
    console.print(f"\nDone in {time.monotonic() - started:.0f} s. Open [bold]{path}[/bold]")


def rhocache(*arguments: str) -> None:
    """Run the command as a user would, and stop the demo where it fails."""
    command = ["rhocache", *arguments]
    console.print(f"[dim]$ {shlex.join(command)}[/dim]", highlight=False)
    executable = Path(sys.executable).with_name("rhocache")
    outcome = subprocess.run([executable, *arguments], check=False)
    if outcome.returncode:
        sys.exit(f"demo: {shlex.join(command)} ended with status {outcome.returncode}")


def held_out(model: Path) -> EvaluationResult:
    return evaluate(
        str(model), DATASET, shards=TEST_SHARD, class_field="category", templates="simple"
    )


@contextmanager
def step(title: str, seconds: dict[str, float], name: str | None = None) -> Iterator[None]:
    console.rule(f"[bold]{title}", align="left")
    with timed(seconds, name):
        yield


@contextmanager
def timed(seconds: dict[str, float], name: str | None) -> Iterator[None]:
    started = time.monotonic()
    yield
    if name:
        seconds[name] = time.monotonic() - started


if __name__ == "__main__":
    main()
