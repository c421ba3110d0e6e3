"""Runs that join a cluster of several nodes, which come and go."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray
from actors import actors

from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.job.kinds.score import ScoreSpec

# In a process of its own, as the tests' process has joined another cluster. The head has no cores;
# each line read is the cores of a node to add, and is answered with the pid of its raylet; or a
# minus, and then the seconds after which the node that was added last is to be gone.
CLUSTER = """
import sys, time
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION as PREEMPTION
from tenacity import Retrying, stop_after_attempt

# A node whose processes take more than 15 s to start ends itself.
patiently = Retrying(stop=stop_after_attempt(10), reraise=True)
soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
head = {"num_cpus": 0, "include_dashboard": False, "_system_config": soon}
cluster = patiently(Cluster, initialize_head=True, head_node_args=head)
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.startswith("-"):
        gone_at = 1000 * (time.time() - float(line))
        gcs = GcsClient(address=cluster.address)
        print(gcs.drain_node(node.node_id, PREEMPTION, "", int(gone_at)), flush=True)
        continue
    node = patiently(cluster.add_node, num_cpus=int(line), include_dashboard=False)
    print(node.all_processes["raylet"][0].process.pid, flush=True)
cluster.shutdown()
"""

# Each encoder stops in the midst of its first shard, tells so by a file with its process's number,
# and goes on when a gate is there. The driver tells of shards under suspicion.
DRIVER = """
import os, sys, time
from pathlib import Path
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.cluster import actor_pool
from rhocache_workers.cluster.actor import EncoderActor
from rhocache_workers.cluster.actor_pool import Crew
from rhocache_workers.run.driver import score

spec, address, gate = sys.argv[1:]

class HeldEncoder(EncoderActor):
    def encode(self, shard, *, isolate):
        for event in super().encode(shard, isolate=isolate):
            yield event
            Path(f"{gate}-{os.getpid()}").touch()
            while not Path(gate).exists():
                time.sleep(0.05)

def tell(self, member, shard, *, isolate, start=Crew._start):
    if isolate:
        print("isolated", file=sys.stderr)
    start(self, member, shard, isolate=isolate)

actor_pool.EncoderActor = HeldEncoder
Crew._start = tell
score(ScoreSpec.model_validate_json(spec), ray_address=address or None)
"""

# Runs beside an actor that has a core, and tells which actors are left.
NEIGHBOUR = """
import json, sys
import ray
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.run.driver import score

@ray.remote(num_cpus=1)
class Neighbour:
    def ready(self):
        return True

ray.init(address=sys.argv[2], log_to_driver=False)
neighbour = Neighbour.remote()
ray.get(neighbour.ready.remote())
score(ScoreSpec.model_validate_json(sys.argv[1]))
actors = ray._private.state.actors().values()
print(json.dumps([a["ActorClassName"] for a in actors if a["State"] != "DEAD"]))
"""


ENCODER = "HeldEncoder"


def environment() -> dict[str, str]:
    """Of every process: Ray turns tokens on in that of the tests, where it starts a cluster."""
    return os.environ | {"RAY_AUTH_MODE": "disabled"}


class Nodes:
    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process
        self.address = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def add(self, cores: int) -> psutil.Process:
        """Return the process whose children are the node's encoders."""
        return psutil.Process(int(self._ask(cores)))

    def drain(self, seconds: int) -> None:
        """Let Ray know that the node that was added last will be gone then."""
        assert self._ask(-seconds).startswith("(True")

    def _ask(self, number: int) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n".encode())
        self._process.stdin.flush()
        return self._answer()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    yield Nodes(process)
    process.communicate()


def at_work(node: psutil.Process, gate: Path) -> bool:
    """Whether an encoder of the node has begun with a shard."""
    return any(Path(f"{gate}-{each.pid}").exists() for each in actors(node, ENCODER))


def kill(node: psutil.Process) -> None:
    """As if its machine lost its power."""
    for process in (node, *node.children(recursive=True)):
        process.kill()


def until(condition: Callable[[], object], driver: subprocess.Popen) -> None:
    while not condition():
        assert driver.poll() is None, driver.communicate()[1]
        time.sleep(0.05)


def contents(spec: ScoreSpec) -> dict[str, bytes]:
    root = Path(spec.output)
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*.parquet")}


def listens(host: str, port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((host, port)) == 0


@pytest.fixture
def many(tmp_path: Path, spec: ScoreSpec, pictures: list, write_tar: Callable) -> ScoreSpec:
    """A job of 24 shards, in batches of a single pair."""
    for shard in range(24):
        write_tar(tmp_path / "many" / f"{shard:05}.tar", pictures[shard % 16 :][:8])
    return spec.model_copy(update={"dataset": str(tmp_path / "many"), "batch_size": 1})


def start(spec: ScoreSpec, address: str, gate: Path) -> subprocess.Popen:
    """A driver of a job, on the cluster at an address, whose encoders wait for a gate."""
    command = [sys.executable, "-c", DRIVER, spec.model_dump_json(), address, str(gate)]
    return subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE)


def test_a_crew_follows_the_nodes(
    many: ScoreSpec,
    nodes: Nodes,
    tmp_path: Path,
    scored_here: Callable[[ScoreSpec], ScoreSpec],
) -> None:
    """One of two dies and another comes."""
    first, second = nodes.add(1), nodes.add(1)
    driver = start(many, nodes.address, tmp_path / "gate")
    until(lambda: actors(first, ENCODER) and at_work(second, tmp_path / "gate"), driver)
    kill(second)
    third = nodes.add(1)
    until(lambda: at_work(third, tmp_path / "gate"), driver)
    (tmp_path / "gate").touch()
    _, told = driver.communicate()
    assert driver.returncode == 0, told.decode()
    assert told == b""

    assert contents(many) == contents(scored_here(many))
    assert not (Path(many.output) / "failures").exists()


@pytest.fixture
def spot(nodes: Nodes) -> Iterator[psutil.Popen]:
    """A node as machines have it: ``ray start`` lasts until it has ended, and hears SIGTERM."""
    words = "start --block --num-cpus=1 --min-worker-port=0 --max-worker-port=0"
    with psutil.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words.split(), f"--address={nodes.address}"],
        env=environment() | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "600"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        yield process
        if process.is_running():
            kill(process)


def test_a_node_that_goes_away_finishes_or_gives_up(
    many: ScoreSpec,
    nodes: Nodes,
    spot: psutil.Popen,
    tmp_path: Path,
    scored_here: Callable[[ScoreSpec], ScoreSpec],
) -> None:
    """One is gone too soon, and another has the time for the shard that it is at."""
    first = nodes.add(1)
    driver = start(many, nodes.address, tmp_path / "gate")
    until(lambda: all(at_work(node, tmp_path / "gate") for node in (first, spot)), driver)
    (finisher,) = actors(spot, ENCODER)
    nodes.drain(seconds=1)
    until(lambda: not actors(first, ENCODER), driver)
    nodes.add(1)
    spot.terminate()
    assert driver.stderr is not None
    lines = [driver.stderr.readline().decode() for _ in range(2)]
    (tmp_path / "gate").touch()
    spot.wait()
    assert driver.poll() is None, "the node went as soon as its shard was done"
    _, told = driver.communicate()
    assert (driver.returncode, told) == (0, b"")

    tar = r"\d{5}\.tar"
    assert re.search(rf" goes away in -?\d+ s: it finishes nothing and gives up {tar}", lines[0])
    found = re.search(rf" goes away in \d+ s: it finishes ({tar}) and gives up {tar}$", lines[1])
    assert found is not None, lines[1]
    progress = Progress.read(f"{many.output}/progress.json")
    encoders = {outcome.shard: outcome.encoder for outcome in progress.recent}
    assert str(encoders[found[1]]).endswith(f":{finisher.pid}")
    assert progress.run.pairs_lost == 1, "of the batch that was encoded"
    assert contents(many) == contents(scored_here(many))


def test_a_remote_decoder_takes_no_row_with_it(
    many: ScoreSpec,
    nodes: Nodes,
    tmp_path: Path,
    scored_here: Callable[[ScoreSpec], ScoreSpec],
) -> None:
    both = nodes.add(1), nodes.add(1)
    spec = many.model_copy(update={"workers": 1, "remote_decoders": 1})
    driver = start(spec, nodes.address, tmp_path / "gate")

    def decoders() -> list[psutil.Process]:
        return [decoder for node in both for decoder in actors(node, "_Helper")]

    until(decoders, driver)
    for decoder in decoders():
        decoder.kill()
    (tmp_path / "gate").touch()
    _, told = driver.communicate()
    assert (driver.returncode, told) == (0, b"")

    assert contents(many) == contents(scored_here(many))


def test_a_run_whose_own_node_dies_ends(many: ScoreSpec, tmp_path: Path) -> None:
    """Nothing would come in its place: a Ray that the run started has no other."""
    driver = start(many, "", tmp_path / "gate")
    process = psutil.Process(driver.pid)
    until(lambda: at_work(process, tmp_path / "gate"), driver)
    for child in process.children(recursive=True):
        if child.name() == "raylet":
            child.kill()
    _, told = driver.communicate()
    assert driver.returncode == 1
    assert b"JobError: the Ray node that this run is on died" in told.splitlines()[-1]
    assert not (Path(many.output) / "manifest.json").exists()


def test_a_run_leaves_the_cores_of_others_alone(spec: ScoreSpec, nodes: Nodes) -> None:
    """Four encoders are asked for where one has room, and it does the work."""
    for _ in range(2):
        nodes.add(1)
    command = [
        sys.executable,
        "-c",
        NEIGHBOUR,
        spec.model_copy(update={"workers": 4}).model_dump_json(),
        nodes.address,
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, check=True)
    assert json.loads(done.stdout) == ["Neighbour"]
    assert (Path(spec.output) / "manifest.json").exists()


# What else an autoscaler's configuration must have.
LISTS = """
    initialization_commands setup_commands head_setup_commands worker_setup_commands
    head_start_ray_commands worker_start_ray_commands cluster_synced_files
"""


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A head without cores, which starts up to two nodes of one when asked.

    Each that ends is replaced: one whose processes take more than 15 s to start ends itself.
    """
    host = ray.util.get_node_ip_address()
    with socket.socket() as sock:
        sock.bind((host, 0))
        port = sock.getsockname()[1]
    address = f"{host}:{port}"
    node = {"resources": {"CPU": 1, "object_store_memory": 150 << 20}, "node_config": {}}
    config = {
        "cluster_name": "growing",
        "max_workers": 2,
        "idle_timeout_minutes": 10,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            "module": "machines.Machines",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "small": node | {"min_workers": 0, "max_workers": 2},
        },
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in LISTS.split()},
    }
    (tmp_path / "growing.json").write_text(json.dumps(config))
    # Fixed ports might be another cluster's.
    options = f"--head --block --num-cpus=0 --port={port} --min-worker-port=0 --max-worker-port=0"
    file = f"--autoscaling-config={tmp_path / 'growing.json'}"
    head = psutil.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *options.split(), file],
        env=environment()
        | {
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: listens(host, port), head)
    yield address, head
    kill(head)
    head.wait()


def test_an_autoscaler_sees_what_is_missing(
    many: ScoreSpec, tmp_path: Path, growing: tuple[str, psutil.Process]
) -> None:
    address, head = growing
    driver = start(many.model_copy(update={"workers": 2}), address, tmp_path / "gate")
    until(lambda: len(actors(head, ENCODER)) == 2, driver)
    (tmp_path / "gate").touch()
    _, told = driver.communicate()
    assert driver.returncode == 0, told.decode()
    line = b"no node of the Ray cluster has a core to give: waiting for one\n"
    # It is told again, or in Ray's words, where a node ended as it started.
    ended = told.count(line) > 1 or b"(raylet)" in told
    assert told == line or (told.startswith(line) and ended), told.decode()
    assert (Path(many.output) / "manifest.json").exists()
