"""Kill whatever there is to kill, over and over, and count what is lost.

    python -m benchmarks.chaos --kills 100

Small shards are scored with a small reference by a driver that starts its own Ray. At random
moments SIGKILL hits an encoder, the driver, the node (the raylet), or all of them at once, and the
run is started again until its cache is committed; then comes the next cache.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from benchmarks.peers import random_reference
from benchmarks.shards import split
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 96, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
PAIRS = 32  # a shard
TARGETS = ("an encoder", "the driver", "the node", "the whole cluster")
AT_START = 0.2  # of the kills may hit a run before it has written a shard
MEAN_SECONDS = 3.0  # from then to a kill
LAST_SECONDS = 600.0  # for a run that nothing disturbs, and for another shard of any
DRIVER = """
import sys
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.run.driver import score
score(ScoreSpec.model_validate_json(sys.argv[1]))
"""

Files = dict[str, tuple[int, int]]  # name -> inode and time: what changes when it is written again


class Soak:
    def __init__(self, spec: ScoreSpec, ray: Path) -> None:
        self._spec = spec
        self._ray = str(ray)  # what its sessions leave when they are killed
        self.kills: Counter[str] = Counter()
        self.duplicated = 0
        self._in_place: Files = {}

    def run(self, most: int) -> None:
        """Score into one cache, killing at most so many, until it is committed."""
        while True:
            driver = subprocess.Popen(
                [sys.executable, "-c", DRIVER, self._spec.model_dump_json()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"RAY_TMPDIR": self._ray},
            )
            started = psutil.Process(driver.pid)
            family = [started]
            while self._goes_on(driver, most):
                with suppress(psutil.NoSuchProcess):
                    # What outlives its parent, as workers do their raylet, is still of the family.
                    family = [started, *{*family[1:], *started.children(recursive=True)}]
                self._kill(random.choice(TARGETS), family)
                most -= 1
            _end(family)
            self._check()
            if driver.returncode == 0:
                return

    def _goes_on(self, driver: subprocess.Popen[bytes], most: int) -> bool:
        """Wait for the moment of the next kill; False where the run ends before."""
        if not most:
            driver.wait(LAST_SECONDS)
            return False
        before = len(self._files())
        if random.random() > AT_START:
            deadline = time.monotonic() + LAST_SECONDS
            while len(self._files()) == before:
                if _ends(driver, 0.1):
                    return False
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the run hangs: no shard in {LAST_SECONDS:g} seconds")
        return not _ends(driver, random.expovariate(1 / MEAN_SECONDS))

    def _kill(self, target: str, family: list[psutil.Process]) -> None:
        named = {
            "an encoder": [p for p in family if _name(p).startswith("ray::Encoder")],
            "the driver": family[:1],
            "the node": [p for p in family if _name(p) == "raylet"],
            "the whole cluster": family,
        }
        victims = named[target] or family[:1]
        target = target if named[target] else "the driver"  # Ray is not there yet
        self._in_place |= self._files()
        for victim in victims[:1] if target == "an encoder" else victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        self.kills[target] += 1

    def _files(self) -> Files:
        files = Path(self._spec.output, "shards").glob("*.parquet")
        return {file.name: (s.st_ino, s.st_mtime_ns) for file in files if (s := file.stat())}

    def _check(self) -> None:
        now = self._files()
        for name, seen in self._in_place.items():
            self.duplicated += now.get(name) != seen
        self._in_place = now


def _ends(driver: subprocess.Popen[bytes], seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        driver.wait(seconds)
    return driver.returncode is not None


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def _end(family: list[psutil.Process]) -> None:
    """What outlives its driver: a cluster would go on in a real one, too, but not on this disk."""
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=30)


def contents(cache: Path) -> dict[str, bytes]:
    return {str(file.relative_to(cache)): file.read_bytes() for file in cache.rglob("*.parquet")}


def main(
    kills: int = 100,
    data: Annotated[str, typer.Option(help="A folder of tars.")] = "examples/openclipart",
    seed: int = 0,
    out: Annotated[str | None, typer.Option(help="Write the table here, as Markdown.")] = None,
) -> None:
    random.seed(seed)
    console, started = Console(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = split(Path(data), folder / "dataset", PAIRS)
        spec = ScoreSpec(
            dataset=str(folder / "dataset"),
            output=str(folder / "undisturbed"),
            reference=ReferenceSpec(model=f"local-dir:{random_reference(folder / 'model', SMALL)}"),
            batch_size=16,
            metadata={},
        )
        Soak(spec, folder).run(0)
        whole = contents(folder / "undisturbed")
        rows = Manifest.read(f"{spec.output}/manifest.json").rows
        total, lost, wrong, duplicated, caches = Counter[str](), 0, 0, 0, 0
        while total.total() < kills:
            cache = folder / f"cache-{caches}"
            soak = Soak(spec.model_copy(update={"output": str(cache)}), folder)
            soak.run(kills - total.total())
            caches += 1
            total += soak.kills
            duplicated += soak.duplicated
            found = contents(cache)
            lost += rows - Manifest.read(f"{cache}/manifest.json").rows
            wrong += sum(found.get(file) != data for file, data in whole.items())
            console.print(f"{total.total()} kills, {caches} caches", highlight=False)
    facts = {
        "kills": str(total.total()),
        **{f"of {target}": str(total[target]) for target in TARGETS},
        "caches": str(caches),
        "shards of each": str(shards),
        "pairs of each": str(rows),
        "rows lost": str(lost),
        "files that differ from an undisturbed run's": str(wrong),
        "shards encoded again that were in place": str(duplicated),
        "minutes": f"{(time.monotonic() - started) / 60:.0f}",
    }
    table = Table("", "count", box=None)
    for fact in facts.items():
        table.add_row(*fact)
    console.print(table)
    if out is not None:
        lines = ["| | count |", "|---|---|", *(f"| {a} | {b} |" for a, b in facts.items())]
        Path(out).write_text("\n".join([*lines, "", f"On {describe()}.", ""]))
    if lost or wrong or duplicated:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
