"""What a run costs its driver, by the number of shards.

    python -m benchmarks.driver --shards 1000 --shards 10000 --shards 100000

Shards are empty, and an encoder that embeds nothing writes the same small shard file for each. So
what is left is listing, handing out, progress, index and manifest. Each run has a process of its
own, in which Ray is started before the clock.
"""

import hashlib
import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe, peak_memory
from rhocache_schemas import layout
from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.cache.shard_file import OK, ShardRows
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.cluster import actor_pool
from rhocache_workers.messages import CommittedShard, Description, ShardInProgress, committed_shard
from rhocache_workers.run.driver import score
from tests.caches import FINGERPRINT

A_FOLDER = 1000  # shards
# What is done before a run -> what the run is called.
RUNS = {
    "nothing": "a new cache",
    "commit": "again, all done and committed",
    "interrupt": "again, all done, not committed",
}


def tar() -> bytes:
    """Make a shard of one pair, which is no picture."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name in ("0.jpg", "0.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    return sink.getvalue()


SHARD = tar()


class NullEncoder:
    """In the encoder's place: it tells as much as that does of a short shard, and writes a file."""

    def __init__(self, spec: ScoreSpec, threads: int) -> None:  # noqa: ARG002
        self._cache = spec.output

    def load(self, batch_sizes: dict[str, int]) -> Iterator[Description]:  # noqa: ARG002
        row = np.ones((1, 1, 1), np.float16)
        hashes = [hash_image(b"x")], [hash_caption("x")]
        rows = ShardRows(["0"], [OK], row, row, np.ones(1, np.float32), *hashes)
        self._sha256 = hashlib.sha256(SHARD).hexdigest()
        self._file = shard_file.encode(rows, FINGERPRINT.digest, self._sha256)
        self._totals, _ = shard_file.sum_up(self._file, "the file of every shard")
        yield Description(FINGERPRINT, 1, 1.0, None, "cpu", 1, {})

    def encode(self, shard: Shard, *, isolate: bool) -> Iterator[ShardInProgress | CommittedShard]:  # noqa: ARG002
        yield ShardInProgress(shard.name, 1)
        path = Path(layout.shard_file(self._cache, shard.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._file)
        yield committed_shard(shard, self._totals, self._sha256)


@dataclass(frozen=True, slots=True)
class Cost:
    shards: int
    run: str
    wall: float  # seconds
    cpu: float  # seconds of the driver's process, in all its threads
    phases: dict[str, float]  # phase -> seconds since the start at which it began
    peak: float  # MB of memory, of the driver's process


def make_dataset(folder: Path, shards: int) -> None:
    for number in range(shards):
        path = folder / f"{number // A_FOLDER:04}" / f"{number:07}.tar"
        if number % A_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(SHARD)


def measure(folder: Path, shards: int, run: str) -> Cost:
    """Score in this process."""
    if run == "interrupt":
        (folder / "cache" / "manifest.json").unlink()
    actor_pool.EncoderActor = NullEncoder  # pyright: ignore
    import ray  # not before the crew has set its environment

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    spec = ScoreSpec(
        dataset=str(folder / "dataset"),
        output=str(folder / "cache"),
        reference=ReferenceSpec(model="local-dir:nothing"),
        metadata={},
    )
    phases: dict[str, float] = {}
    started, cpu = time.perf_counter(), cpu_seconds()

    def note(progress: Progress) -> None:
        phases.setdefault(progress.phase, time.perf_counter() - started)

    summary = score(spec, on_progress=note)
    wall = time.perf_counter() - started
    if (summary.shards, summary.rows) != (shards, shards):
        raise SystemExit(f"{summary.shards} shards with {summary.rows} rows, not {shards} of each")
    return Cost(shards, run, wall, cpu_seconds() - cpu, phases, peak_memory())


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def report(costs: list[Cost]) -> tuple[list[str], list[list[str]]]:
    head = [
        "",
        "shards",
        "wall, ms a shard",
        "driver's CPU, ms a shard",
        "first shard after, s",
        "commit, s",
        "peak memory, MB",
    ]
    lines = [
        [
            RUNS[cost.run],
            f"{cost.shards:,}",
            f"{1e3 * cost.wall / cost.shards:.2f}",
            f"{1e3 * cost.cpu / cost.shards:.2f}",
            f"{cost.phases['encoding']:.1f}",
            f"{cost.phases['completed'] - cost.phases['finalizing']:.1f}",
            f"{cost.peak:.0f}",
        ]
        for cost in costs
    ]
    return head, lines


def write(path: Path, costs: list[Cost]) -> None:
    head, lines = report(costs)
    sizes = " ".join(f"--shards {count}" for count in dict.fromkeys(c.shards for c in costs))
    rows = [head, ["---"] * len(head), *lines]
    text = [
        "# What a run costs its driver",
        "",
        "```",
        f"python -m benchmarks.driver {sizes}",
        "```",
        "",
        "Shards have one pair, and an encoder that embeds nothing writes the same small file for "
        "each. Wall time has this encoder's in it, and the start of its process; Ray runs already.",
        "",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"On {describe()}.",
        "",
    ]
    path.write_text("\n".join(text))


def main(
    shards: Annotated[list[int], typer.Option(help="How many; may be given again.")],
    out: Annotated[str | None, typer.Option(help="Write the table here, as Markdown.")] = None,
    run: Annotated[str | None, typer.Option(hidden=True)] = None,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    if run is not None and folder is not None:
        print(json.dumps(asdict(measure(folder, shards[0], run))))
        return
    console, costs = Console(), list[Cost]()
    for count in shards:
        with tempfile.TemporaryDirectory() as name:
            make_dataset(Path(name, "dataset"), count)
            for each in RUNS:
                told = subprocess.run(
                    [sys.executable, "-m", "benchmarks.driver", "--shards", str(count),
                     "--run", each, "--folder", name],
                    check=True, stdout=subprocess.PIPE,
                )  # fmt: skip
                costs.append(Cost(**json.loads(told.stdout)))
                console.print(costs[-1], highlight=False)
    head, lines = report(costs)
    table = Table(*head, box=None)
    for line in lines:
        table.add_row(*line)
    console.print(table)
    if out is not None:
        write(Path(out), costs)


if __name__ == "__main__":
    typer.run(main)
