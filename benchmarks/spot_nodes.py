"""What preemptions lose of a run's work, on a few nodes of a real Ray.

    python -m benchmarks.spot_nodes --grace 0 --grace 12

``benchmarks/spot.py`` in small: each node is a ``ray start`` that gets SIGTERM after a random time,
and SIGKILL with all its processes when the notice is over; then another takes its place. Encoders
embed nothing, and note each part of a shard that is done, so that what was done in vain is counted.
"""

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import psutil
import typer

from benchmarks import driver
from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.cluster import actor_pool
from rhocache_workers.messages import CommittedShard, Description, ShardInProgress
from rhocache_workers.run.driver import score

PARTS = 60  # of a shard


class PatientEncoder(driver.NullEncoder):
    """Takes its time for a shard, with a turn for each, as the real one."""

    def load(self, batch_sizes: dict[str, int]) -> Iterator[Description]:
        self._turn = threading.Lock()
        self._done = Path(self._cache).with_name("done") / str(os.getpid())
        self._seconds = float(Path(self._cache).with_name("seconds").read_text())
        yield from super().load(batch_sizes)

    def encode(self, shard: Shard, *, isolate: bool) -> Iterator[ShardInProgress | CommittedShard]:
        with self._turn:
            for part in range(PARTS):
                time.sleep(self._seconds / PARTS)
                with self._done.open("a") as file:
                    file.write(".")
                if part % 10 == 0:
                    yield ShardInProgress(shard.name, part + 1)
            *_, last = super().encode(shard, isolate=isolate)
            yield last


class Slot(threading.Thread):
    """A place for a node, where one comes after another."""

    def __init__(self, address: str, life: float, grace: float, until: threading.Event) -> None:
        super().__init__()
        self._life, self._grace, self._until = life, grace, until
        self._command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"),
            *("--min-worker-port=0", "--max-worker-port=0", f"--address={address}"),
        ]
        self.preempted = 0

    def run(self) -> None:
        while not self._until.is_set():
            node = psutil.Popen(
                self._command,
                env=os.environ | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(self._grace)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if not self._until.wait(random.expovariate(1 / self._life)):
                self.preempted += 1
                node.terminate()
                with suppress(psutil.TimeoutExpired):
                    node.wait(self._grace)
            self._kill(node)

    def _kill(self, node: psutil.Popen) -> None:
        with suppress(psutil.NoSuchProcess):
            for process in (node, *node.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        node.wait()


def measure(
    folder: Path, nodes: int, life: float, seconds: float, grace: float, shards: int
) -> str:
    from ray.cluster_utils import Cluster

    driver.make_dataset(folder / "dataset", shards)
    (folder / "done").mkdir()
    (folder / "seconds").write_text(str(seconds))
    spec = ScoreSpec(
        dataset=str(folder / "dataset"),
        output=str(folder / "cache"),
        reference=ReferenceSpec(model="local-dir:nothing"),
        metadata={},
    )
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    over = threading.Event()
    slots = [Slot(cluster.address, life, grace, over) for _ in range(nodes)]
    for slot in slots:
        slot.start()
    try:
        summary = score(spec, ray_address=cluster.address)
    finally:
        over.set()
        for slot in slots:
            slot.join()
        cluster.shutdown()
    done = sum(file.stat().st_size for file in (folder / "done").iterdir())
    files = {file.read_bytes() for file in (folder / "cache" / "shards").rglob("*.parquet")}
    told = Progress.read(f"{spec.output}/progress.json").run.pairs_lost
    return (
        f"{grace:g} s of notice: {1 - shards * PARTS / done:.2%} lost ({told} of {done} parts were "
        f"told of), {sum(slot.preempted for slot in slots)} preempted, {summary.shards} of "
        f"{shards} shards, {len(files)} different, {summary.failed_shards} failed"
    )


def main(
    grace: Annotated[list[float], typer.Option(help="Seconds; may be given again.")],
    nodes: int = 3,
    life: Annotated[float, typer.Option(help="Mean seconds until a node is to go.")] = 60,
    seconds: Annotated[float, typer.Option(help="Of a shard.")] = 6,
    shards: int = 120,
    seed: int = 0,
) -> None:
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_worker_register_timeout_seconds": "600"}
    actor_pool.EncoderActor = PatientEncoder  # pyright: ignore
    for each in grace:
        random.seed(seed)
        with tempfile.TemporaryDirectory() as name:
            print(measure(Path(name), nodes, life, seconds, each, shards), flush=True)


if __name__ == "__main__":
    typer.run(main)
