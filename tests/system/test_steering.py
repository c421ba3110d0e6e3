"""The whole path: a job over REST, the service killed under it, then training from the cache."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from rhocache import Client
from rhocache_schemas.api import Job

RHOCACHE = str(Path(sys.executable).with_name("rhocache"))
DATASET = Path(__file__).parents[2] / "examples" / "openclipart"


class Service:
    """``rhocache serve`` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder

    def start(self) -> None:
        command = [RHOCACHE, "serve", "--port", str(self.port), "--data-dir", "data"]
        command += ["--allow-root", str(self.folder), "--allow-root", str(DATASET)]
        with (self.folder / "service.log").open("a") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        while not self._is_ready():
            assert self.process.poll() is None, (self.folder / "service.log").read_text()
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path)
    running.start()
    yield running
    running.stop()
    ray = tmp_path / "data" / "ray.json"
    assert not ray.exists(), "a service without jobs takes its Ray with it"


def rhocache(*arguments: str, cwd: Path) -> dict:
    outcome = subprocess.run(
        [RHOCACHE, *arguments, "--json"], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout.splitlines()[-1])


def wait_for(client: Client, job: str, done: Callable[[Job], bool]) -> Job:
    for seen in client.jobs.watch(job):
        if done(seen):
            return seen
    pytest.fail(f"{seen}")


def test_a_job_outlives_its_service_and_its_cache_trains_a_model_without_the_reference(
    service: Service, tmp_path: Path, reference_folder: Path
) -> None:
    reference = tmp_path / "reference"
    shutil.copytree(reference_folder, reference)
    fields = {
        "dataset": str(DATASET),
        "reference": {"model": f"local-dir:{reference}"},
        "batch_size": 64,
    }
    with Client(service.url) as client:
        job = client.jobs.submit(**fields, output=str(tmp_path / "cache")).id
        wait_for(client, job, lambda seen: seen.status == "in_progress")
        service.kill()
        service.start()
        done = wait_for(client, job, lambda seen: seen.status.terminal)
        assert done.status == "completed", done.errors
        assert done.request_counts.completed == 2048
        manifest = client.jobs.manifest(job)
        assert client.jobs.errors(job).data == []
    assert manifest.ok == 2048

    undisturbed = rhocache(
        "score", str(DATASET), "--model", f"local-dir:{reference}", "--out", "offline",
        "--batch-size", "64", cwd=tmp_path,
    )  # fmt: skip
    assert undisturbed["fingerprint"] == manifest.fingerprint_sha256
    for path in sorted((tmp_path / "offline" / "shards").iterdir()):
        assert path.read_bytes() == (tmp_path / "cache" / "shards" / path.name).read_bytes()

    shutil.rmtree(reference)
    config = {
        "output": str(tmp_path / "run"),
        "data": {"dataset": str(DATASET), "shards": "00000.tar"},
        "cache": str(tmp_path / "cache"),
        "model": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
            "text_cfg": {"context_length": 16, "width": 16, "heads": 2, "layers": 1},
        },
        "objective": "drrho",
        "batch_size": 64,
        "epochs": 1,
        "max_steps": 3,
    }  # fmt: skip
    (tmp_path / "drrho.yaml").write_text(json.dumps(config))
    trained = rhocache("train", "drrho.yaml", cwd=tmp_path)
    assert trained["steps"] == 3
    scores = rhocache(
        "evaluate", trained["model"], str(DATASET), "--shards", "00003.tar",
        "--class-field", "category", "--templates", "simple", cwd=tmp_path,
    )  # fmt: skip
    assert scores["images"] == 512
    assert 0 <= scores["zero_shot"]["accuracy"] <= 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["score", "nowhere", "--model", "local-dir:m", "--out", "c"], 1, "no dataset at "),
        (["score", "x", "--model", "ViT-B-32", "--out", "c"], 2, "needs pretrained"),
        (["score", "x", "--out", "c"], 2, "--model"),
        (["inspect", "nowhere"], 1, "there is no cache at nowhere"),
        (["verify", "nowhere"], 1, "nowhere"),
        (["train", "nowhere.yaml"], 2, "cannot read nowhere.yaml"),
        (["evaluate", "nowhere", str(DATASET)], 2, "nowhere"),
        (["serve", "--host", "0.0.0.0", "--data-dir", "d"], 2, "rhocache keys create"),
        (["serve", "--port", "0"], 2, "port"),
        (["jobs", "list", "--url", "http://127.0.0.1:9"], 1, "rhocache serve"),
        (["fly"], 2, "fly"),
    ],
)
def test_bad_input_is_one_clear_line_and_the_right_status(
    tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    environment = os.environ | {"NO_COLOR": "1", "TERMINAL_WIDTH": "200"}
    outcome = subprocess.run(
        [RHOCACHE, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == status, outcome.stderr
    assert message in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        outcome = subprocess.run(
            [RHOCACHE, "serve", "--port", port, "--data-dir", "data"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert outcome.returncode == 1
    assert outcome.stderr.splitlines()[-1] == (
        f"rhocache: error: cannot listen on 127.0.0.1:{port}: Address already in use"
    )
