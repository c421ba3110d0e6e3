"""Starts that fail, with one clear line and nothing left running, and an end in good order."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from rhocache_schemas import network
from rhocache_schemas.errors import StorageError
from rhocache_service.scheduling.embedded_ray import EmbeddedRay, try_lock

from .conftest import COMMAND, free_port, wait_until


def refusal(*flags: str | Path, code: int = 1) -> str:
    """The line with which ``rhocache serve`` refuses to start."""
    done = subprocess.run([COMMAND, "serve", *flags], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("rhocache: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(f"--port={port}", "--data-dir", tmp_path)
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in line
    assert not (tmp_path / "ray.json").exists()


def test_a_data_dir_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refusal("--port=1", "--data-dir", tmp_path / "file" / "data")
    assert f"cannot write in {tmp_path}/file/data: Not a directory" in line


def test_a_data_dir_that_another_service_uses(tmp_path: Path) -> None:
    lock = try_lock(tmp_path / "service.lock")
    assert lock is not None
    assert f"another rhocache serve uses {tmp_path}" in refusal("--data-dir", tmp_path)
    os.close(lock)


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    url = "postgresql://u:secret@127.0.0.1:9/d"
    line = refusal(f"--port={free_port()}", "--data-dir", tmp_path, "--database-url", url)
    assert "cannot open the registry" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port=99999"], "port: Input should be less than or equal to 65535"),
        (["--host=0.0.0.0"], "host 0.0.0.0 is not loopback"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, flags: list[str], message: str) -> None:
    assert message in refusal(*flags, "--data-dir", tmp_path, code=2)


def test_an_ipv6_address(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    flags = ["--host=::1", f"--port={port}", "--ray-address=http://[::1]:9"]
    with log.open("w") as told:
        command = [COMMAND, "serve", *flags, "--data-dir", tmp_path / "data"]
        service = subprocess.Popen(command, stdout=told, stderr=told)
    url = f"http://[::1]:{port}"
    wait_until(lambda: _lives(url), log)
    listed = subprocess.run(
        [COMMAND, "jobs", "list", "--json"],
        env=os.environ | {"RHOCACHE_URL": url},
        capture_output=True,
        check=True,
    )
    service.terminate()
    service.wait()
    assert f"listening on {url}" in log.read_text()
    assert json.loads(listed.stdout)["data"] == []
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        line = refusal("--host=[::1]", f"--port={port}", "--data-dir", tmp_path / "data")
    assert f"cannot listen on [::1]:{port}: Address already in use" in line


def test_no_folder_for_rays_sockets_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    (tmp_path / ("d" * 50)).mkdir()
    with pytest.raises(StorageError, match="no folder for sockets"):
        EmbeddedRay(tmp_path / ("d" * 50))


def test_the_room_that_rays_sockets_need() -> None:
    code = (
        "from ray.dashboard.subprocesses.module import SubprocessModule\n"
        "from ray.dashboard.utils import get_all_modules\n"
        "print(*(module.__name__ for module in get_all_modules(SubprocessModule)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    session = "/session_2026-12-31_23-59-59_999999_4194304/sockets/dash_"
    assert max(map(len, told.stdout.split())) + len(session) <= network.RAY


def test_those_who_wait_are_answered_when_it_ends(tmp_path: Path) -> None:
    url, log = f"http://127.0.0.1:{free_port()}", tmp_path / "log"
    flags = [f"--port={url.rpartition(':')[2]}", "--data-dir", tmp_path / "data"]
    nowhere = ["--ray-address=http://127.0.0.1:9", "--allow-root", tmp_path]
    with log.open("w") as told:
        service = subprocess.Popen([COMMAND, "serve", *flags, *nowhere], stdout=told, stderr=told)
    wait_until(lambda: _lives(url), log)
    spec = {"dataset": str(tmp_path), "output": f"{tmp_path}/cache"}
    spec |= {"reference": {"model": f"local-dir:{tmp_path}"}}
    job = httpx.post(f"{url}/v1/jobs", json=spec).json()["id"]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(httpx.get, f"{url}/v1/jobs/{job}?wait=60")
        stream = pool.submit(httpx.get, f"{url}/v1/jobs/{job}/events")
        wait_until(lambda: _connections(service.pid) == 2, log)
        time.sleep(1)  # until what they ask for is read
        service.send_signal(signal.SIGTERM)
        assert waiting.result().json()["status"] == "validating"
        assert "job.status" in stream.result().text
        assert service.wait() == -signal.SIGTERM
    assert "error" not in log.read_text().lower()


def _connections(pid: int) -> int:
    found = psutil.Process(pid).net_connections("tcp")
    return sum(each.status == psutil.CONN_ESTABLISHED for each in found)


def _lives(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").is_success
    except httpx.TransportError:
        return False
