"""Runs, caches of caches, exports, and jobs over a cache, in processes that are killed.

    python -m killed

forks a process for each line of its input, a JSON list: what is done, its arguments, and the step
and the end of the path at which it is to be killed, or null and null. It answers each with a line:
how the process ended, as ``os.waitpid`` has it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from faults import FaultyDisk, kill_at

from rhocache_schemas.job.kinds import KINDS
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.encode import encoder  # noqa: F401 here, and not again in each process
from rhocache_workers.exchange.export import export
from rhocache_workers.maintain.convert import convert
from rhocache_workers.maintain.merge import merge
from rhocache_workers.over_cache.driver import make_table
from rhocache_workers.run import driver


def make(kind: str, spec: dict[str, Any]) -> None:
    work = import_module(f"rhocache_workers.kinds.{kind}").WORK
    make_table(KINDS[kind].model_validate(spec), work, here=True)


def score(spec: dict[str, Any]) -> None:
    driver.score(ScoreSpec.model_validate(spec), here=True)


DOES: dict[str, Callable[..., Any]] = {
    "convert": convert,
    "merge": merge,
    "export": export,
    "make": make,
    "score": score,
}


Do = Callable[..., int]


@contextmanager
def killing() -> Iterator[Do]:
    """Yield what does one of them in a process, which is killed ``at`` a step, and returns how that
    has ended."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-m", "killed"],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def do(what: str, *arguments: Any, at: tuple[str, str] | None = None) -> int:
            server.stdin.write(json.dumps([what, arguments, *(at or (None, None))]) + "\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        yield do
        server.stdin.close()


def main() -> None:
    torch.set_num_threads(1)  # a pool of them would not survive the fork
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            what, arguments, step, end = json.loads(line)
            if step is not None:
                _kill_at(step, end)
            DOES[what](*arguments)
            os._exit(0)
        sys.stdout.write(f"{os.waitpid(child, 0)[1]}\n")
        sys.stdout.flush()


def _kill_at(step: str, end: str) -> None:
    """A folder is given its name by Python's own rename, which no storage sees."""
    strike = kill_at(step, end)
    FaultyDisk(strike).install()
    sys.addaudithook(
        lambda event, args: strike(event, str(args[1])) if event == "os.rename" else None
    )


if __name__ == "__main__":
    main()
