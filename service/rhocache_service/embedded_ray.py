"""A Ray of the service's own, which outlives it: a killed service must not kill its jobs."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from rhocache_schemas.errors import JobError

START_SECONDS = 60
_LONGEST_TEMP_DIR = 40  # Ray puts socket paths of up to 107 bytes in all below it


class EmbeddedRay:
    """``ray start --head`` in a session of its own, found again by ``ray.json`` in the data dir.

    It binds loopback only, and asks for a token that lies in the data dir. ``ray stop`` would end
    every Ray of the machine, so it is ended by the process that was recorded.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.absolute()
        self._record = self._data_dir / "ray.json"
        token = self._data_dir / "ray-token"
        if not token.exists():
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
        self.headers = {"Authorization": f"Bearer {token.read_text()}"}
        self._environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}

    def ensure_running(self) -> str:
        """Give the HTTP address of the Ray that runs, or start one.

        Raises JobError when it does not start.
        """
        known = self._read()
        if known and _alive(known["pid"]) and self._answers(known["address"]):
            return known["address"]
        return self._start()

    def stop(self) -> None:
        known = self._read()
        if known and _alive(known["pid"]):
            os.killpg(known["pid"], signal.SIGTERM)
            for _ in range(200):
                if not _alive(known["pid"]):
                    break
                time.sleep(0.1)
            else:
                os.killpg(known["pid"], signal.SIGKILL)
        self._record.unlink(missing_ok=True)

    def _read(self) -> dict | None:
        try:
            return json.loads(self._record.read_text())
        except (OSError, ValueError):
            return None

    def _start(self) -> str:
        self.stop()  # what is left of one that no longer answers
        ports = _free_ports(7)
        address = f"http://127.0.0.1:{ports[1]}"
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
            "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
            "--disable-usage-stats", f"--temp-dir={self._temp_dir()}",
            f"--port={ports[0]}", f"--dashboard-port={ports[1]}",
            f"--dashboard-agent-listen-port={ports[2]}", f"--dashboard-agent-grpc-port={ports[3]}",
            f"--runtime-env-agent-port={ports[4]}", f"--metrics-export-port={ports[5]}",
            f"--ray-client-server-port={ports[6]}",
        ]  # fmt: skip
        with (self._data_dir / "ray.log").open("w") as log:
            process = subprocess.Popen(  # noqa: S603 (a fixed command)
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._data_dir,
                env=os.environ | self._environment,
            )
        self._record.write_text(json.dumps({"pid": process.pid, "address": address}))
        for _ in range(START_SECONDS * 5):
            if process.poll() is not None:
                break
            if self._answers(address):
                return address
            time.sleep(0.2)
        self.stop()
        raise JobError(f"Ray did not start within {START_SECONDS} s; see {self._data_dir}/ray.log")

    def _answers(self, address: str) -> bool:
        try:
            return httpx.get(f"{address}/api/jobs/", headers=self.headers, timeout=5).is_success
        except httpx.TransportError:
            return False

    def _temp_dir(self) -> str:
        inside = str(self._data_dir / "ray")
        if len(inside) <= _LONGEST_TEMP_DIR:
            return inside
        return tempfile.mkdtemp(prefix="rhocache-ray-")


def _alive(pid: int) -> bool:
    """Whether a process runs; one of our own that has ended is reaped on the way."""
    with contextlib.suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]
