"""Real runs on 1, 2 and 4 nodes of one machine, with an encoder that embeds nothing.

Each node is a raylet with one core to give, and one encoder. The encoder rests a while in each
shard, as one whose GPU is at work leaves the cores to others: so many nodes share this machine's.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.driver import NullEncoder, cpu_seconds, make_dataset
from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.messages import CommittedShard, ShardInProgress

# In a process of its own, which ends when its input does. The head has no core to give.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for _ in range(int(sys.argv[1])):
    cluster.add_node(num_cpus=1, include_dashboard=False)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@dataclass(frozen=True, slots=True)
class Run:
    nodes: int
    rest: float  # seconds of an encoder in each shard
    shards_per_second: float
    driver: float  # share of one core, while shards are encoded


class RestingEncoder(NullEncoder):
    def encode(self, shard: Shard, *, isolate: bool) -> Iterator[ShardInProgress | CommittedShard]:
        time.sleep(float(os.environ["SCALE_REST"]))
        yield from super().encode(shard, isolate=isolate)


def score_there(folder: str, address: str, nodes: int, shards: int) -> None:
    from rhocache_workers.cluster import actor_pool
    from rhocache_workers.run.driver import score

    actor_pool.EncoderActor = RestingEncoder  # pyright: ignore
    spec = ScoreSpec(
        dataset=f"{folder}/dataset",
        output=f"{folder}/cache",
        reference=ReferenceSpec(model="local-dir:nothing"),
        metadata={},
        workers=nodes,
    )
    began: dict[str, tuple[float, float]] = {}

    def note(progress: Progress) -> None:
        # Once each node's encoder has ended a shard all of them work.
        phase = progress.phase
        if phase == "encoding" and progress.shards_committed < shards // 5:
            return
        began.setdefault(phase, (time.perf_counter(), cpu_seconds()))
        began.setdefault(f"{phase} at", (progress.shards_committed, 0.0))

    score(spec, ray_address=address, on_progress=note)
    wall, cpu = (began["finalizing"][i] - began["encoding"][i] for i in (0, 1))
    done = shards - began["encoding at"][0]
    rest = float(os.environ["SCALE_REST"])
    print(json.dumps(asdict(Run(nodes, rest, done / wall, cpu / wall))))


def run(nodes: int, rest: float, shards: int) -> Run:
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "SCALE_REST": str(rest)}
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, str(nodes)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert cluster.stdout is not None
    address = cluster.stdout.readline().decode().strip()
    try:
        with tempfile.TemporaryDirectory() as folder:
            make_dataset(Path(folder, "dataset"), shards)
            told = subprocess.run(
                [sys.executable, "-m", "benchmarks.scale.nodes",
                 folder, address, str(nodes), str(shards)],
                env=environment, check=True, stdout=subprocess.PIPE,
            )  # fmt: skip
    finally:
        cluster.communicate()
    return Run(**json.loads(told.stdout))


if __name__ == "__main__":
    score_there(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
