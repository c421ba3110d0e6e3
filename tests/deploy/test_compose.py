"""The composed stack in real containers: from nothing to a trained model, while parts are killed.

Run by ``make compose-test``. COMPOSE is the command, as ``docker compose`` or ``podman-compose``.
With STANDINS=1 what would be pulled is built from packages, and Grafana is left out.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from rhocache import Client
from rhocache_schemas.api import Job

from ..service.conftest import free_port

pytestmark = pytest.mark.by_hand

ROOT = Path(__file__).parents[2]
COMPOSE = shlex.split(os.environ.get("COMPOSE", "docker compose"))
ENGINE = "podman" if "podman" in COMPOSE[0] else "docker"
STANDINS = ("postgres", "s3", "prometheus") if os.environ.get("STANDINS") else ()
PROJECT = "rhocache-test"
# Pairs that no two are alike of: alike ones are encoded once, and the job would be over at once.
MAKE_DATASET = """
import io, tarfile, numpy as np
from PIL import Image
from rhocache_schemas import storage
for shard in range(24):
    noise, tar = np.random.default_rng(shard), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for pair in range(1024):
            picture = io.BytesIO()
            Image.fromarray(noise.integers(0, 256, (32, 32, 3), np.uint8)).save(picture, "PNG")
            for suffix, data in (("png", picture.getvalue()), ("txt", f"pair {pair}".encode())):
                member = tarfile.TarInfo(f"{pair:04}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    storage.write_atomic(f"s3://rhocache/noise/{shard:05}.tar", tar.getvalue())
"""


class Stack:
    def __init__(self) -> None:
        self.port = free_port()
        self.environment = os.environ | {"PORT": str(self.port)}
        for name in STANDINS:
            self.environment[f"{name.upper()}_IMAGE"] = f"localhost/rhocache-test-{name}"
        self.client: Client

    def compose(self, *words: str) -> str:
        command = [*COMPOSE, "--project-name", PROJECT, *words]
        return self._run(command)

    def engine(self, *words: str) -> str:
        return self._run([ENGINE, *words])

    def container(self, service: str) -> str:
        return self.engine(
            "ps", "--quiet", f"--filter=label=com.docker.compose.project={PROJECT}",
            f"--filter=label=com.docker.compose.service={service}",
        ).split()[0]  # fmt: skip

    def up(self, *services: str) -> None:
        """One after another: not every compose waits for conditions."""
        for service in services:
            self.compose("up", "--detach", "--no-build", "--no-deps", service)

    def run(self, service: str, *words: str, profile: str = "example") -> str:
        options = ("--profile", profile, "run", "--rm", "--no-deps", "-T")
        return self.compose(*options, service, *words)

    def kill(self, service: str) -> None:
        """As the kernel would: the engine's own kill counts as a wish, and nothing restarts."""
        pid = int(self.engine("inspect", "--format={{.State.Pid}}", self.container(service)))
        os.kill(pid, signal.SIGKILL)

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def wait_until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.5)


def succeeds(command: Callable[[], object]) -> bool:
    try:
        command()
    except (AssertionError, IndexError, httpx.HTTPError):
        return False
    return True


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    stack = Stack()
    subprocess.run([sys.executable, "deploy/make_secrets.py"], cwd=ROOT, check=True)
    for name in STANDINS:
        stack.engine("build", "--quiet", "--file=deploy/test/Dockerfile", f"--target={name}",
                     *shlex.split(os.environ.get("STANDIN_OPTIONS", "")),
                     f"--tag=localhost/rhocache-test-{name}", ".")  # fmt: skip
    for service in ("migrate", "ray-head", "trainer"):  # which share layers, if not built at once
        stack.compose("--profile", "trainer", "build", service)
    try:
        stack.up("postgres", "s3", "migrate", "bucket", "ray-head", "ray-worker", "prometheus")
        make_key = ("run", "--rm", "--no-deps", "-T", "api", "rhocache", "keys", "create", "test")
        wait_until(lambda: succeeds(lambda: stack.compose(*make_key, "--scope=admin")))
        key = stack.compose(*make_key, "--scope=admin").split()[-1]
        stack.up("api")
        if not STANDINS:
            stack.up("grafana")
        with Client(f"http://127.0.0.1:{stack.port}", api_key=key, patience=600) as client:
            stack.client = client
            wait_until(lambda: succeeds(lambda: get(stack, "/readyz")))
            yield stack
    finally:
        for service in ("api", "ray-head", "ray-worker", "postgres", "s3"):
            sys.stdout.write(f"== {service}\n{stack.compose('logs', '--tail=40', service)}\n")
        stack.compose("--profile", "trainer", "--profile", "example", "down", "--volumes")


def get(stack: Stack, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{stack.port}{path}").raise_for_status()


@pytest.fixture(scope="module")
def scored(stack: Stack) -> Job:
    """The pairs that come with rhocache, from POST to the manifest."""
    stack.run("example")
    job = stack.client.jobs.submit(
        dataset="s3://rhocache/icons",
        reference={"model": "local-dir:/references/icons"},
        output="s3://rhocache/caches/icons",
    )
    return ended(stack, job)


def test_a_job_is_scored(stack: Stack, scored: Job) -> None:
    assert (scored.status, scored.request_counts.completed) == ("completed", 3072)
    assert stack.client.jobs.manifest(scored.id).ok == 3072


def test_nobody_is_root_and_no_root_is_written(stack: Stack) -> None:
    for service in ("api", "ray-head", "ray-worker"):
        assert stack.engine("exec", stack.container(service), "id", "-u").strip() == "10001"
        write = ("exec", stack.container(service), "touch", "/opt/rhocache/x")
        with pytest.raises(AssertionError, match="Read-only file system"):
            stack.engine(*write)


def test_two_ranks_train_where_the_reference_can_not_be_read(stack: Stack, scored: Job) -> None:
    assert scored.status == "completed"
    told = stack.run(
        "trainer", "torchrun", "--nproc-per-node=2", "-m", "rhocache", "train",
        "/configs/drrho.yaml", "cache=s3://rhocache/caches/icons",
        "data.dataset=s3://rhocache/icons", "epochs=1", "output=/data/run",
        profile="trainer",
    )  # fmt: skip
    assert "/data/run/model" in told
    for forbidden, message in (
        ("ls /references/icons", "No such file"),
        ("python -c 'import ray'", "No module named 'ray'"),
        ("python -c 'import fastapi'", "No module named 'fastapi'"),
        ("python -c \"import socket; socket.create_connection(('api', 8321))\"", "gaierror"),
        ("python -c \"import socket; socket.create_connection(('ray-head', 6379))\"", "gaierror"),
        ("python -c \"from rhocache_schemas import storage;"
         " storage.write_atomic('s3://rhocache/x', b'')\"", "Access ?Denied|ACCESS_DENIED"),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match=message):
            stack.run("trainer", "sh", "-c", forbidden, profile="trainer")


def test_what_is_killed_loses_nothing(stack: Stack) -> None:
    """The worker, the service and the database, each while a job runs."""
    stack.run("example", "python", "-c", MAKE_DATASET)
    job = stack.client.jobs.submit(
        dataset="s3://rhocache/noise",
        reference={"model": "local-dir:/references/icons"},
        output="s3://rhocache/caches/noise",
    )
    for number, service in enumerate(("ray-worker", "api", "postgres"), 1):
        wait_until(lambda n=number: committed(stack, job.id) >= 2 * n)
        stack.kill(service)
    job = ended(stack, job)
    assert (job.status, job.errors) == ("completed", [])
    manifest = stack.client.jobs.manifest(job.id)
    assert (manifest.rows, manifest.ok, manifest.shards) == (24 * 1024, 24 * 1024, 24)


def ended(stack: Stack, job: Job) -> Job:
    *_, job = stack.client.jobs.watch(job.id)
    return job


def committed(stack: Stack, job: str) -> int:
    return stack.client.jobs.get(job).shard_counts.committed


def test_prometheus_has_seen_it(stack: Stack, scored: Job) -> None:
    def ask(query: str) -> list[str]:
        # It has no port outside; what is in its network may ask.
        code = (
            "import sys, urllib.parse, urllib.request as r; print(r.urlopen("
            "'http://prometheus:9090/api/v1/query?' + urllib.parse.urlencode({'query': "
            "sys.argv[1]})).read().decode())"
        )
        told = stack.engine("exec", stack.container("api"), "python", "-c", code, query)
        return [each["value"][1] for each in json.loads(told)["data"]["result"]]

    assert scored.status == "completed"
    wait_until(lambda: ask('rhocache_jobs{status="completed"} >= 2') != [])
    assert ask("rhocache_registry_up") == ["1"]
    wait_until(lambda: len(ask('up{job="ray"} == 1')) == 2)
    assert ask("ray_node_cpu_count") != []
    assert ask("count(ALERTS{alertname='RhocacheDown'})") == []
