"""A Ray of the service's own, which outlives it: a killed service must not kill its jobs."""

import contextlib
import fcntl
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from rhocache_schemas import network, storage
from rhocache_schemas.errors import RayUnreachable

log = logging.getLogger(__name__)

START_SECONDS = 60
STOP_SECONDS = 20
_FOLDER = "rho-"  # of Ray's sockets and logs, where the data dir is not the place for them


class EmbeddedRay:
    """``ray start --head`` in a session of its own, found again by ``ray.json`` in the data dir.

    It listens on loopback only, and asks for a token that lies in the data dir. ``ray stop`` would
    end every Ray of the machine, so it is ended by the process that was recorded. Its sockets and
    logs lie in the data dir, or where that has too long or odd a path, in a folder for temporary
    files that only this user can look into, for as long as it runs.

    Making one raises StorageError where the data dir can't be written, or there is no folder that
    is short enough.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.absolute()
        self._inside = str(self._data_dir / "ray")
        if not network.fits(self._inside, network.RAY):
            _short_folder()  # else the service would start, and never its jobs
        self._record = self._data_dir / "ray.json"
        token = self._data_dir / "ray-token"
        try:
            if not (token.exists() and token.stat().st_size):
                token.touch(mode=0o600)
                token.write_text(secrets.token_hex(32))
            self.headers = {"Authorization": f"Bearer {token.read_text()}"}
        except OSError as error:
            raise storage.failure(f"cannot write {token}", error) from error
        self._environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            # Without this, Ray on Linux listens on the machine's address, whatever it is told.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
        self._address: str | None = None  # once it has answered

    def ensure_running(self) -> str:
        """Return the HTTP address of the Ray that runs, or start one.

        One that is slow to answer is left alone: jobs run in it.

        Raises RayUnreachable when it does not start or answer.
        """
        lock = self._try_lock()
        if lock is not None:  # none runs
            self._address = None
            try:
                self._start(lock)
            except OSError as error:
                cause = f"{error.strerror}: {error.filename or self._data_dir}"
                raise RayUnreachable(f"cannot start Ray: {cause}") from error
            finally:
                os.close(lock)
        if self._address is None:
            self._address = self._wait_for_answer()
        return self._address

    def stop(self) -> None:
        if (lock := self._try_lock()) is None:
            pid = self._read()["pid"]
            os.kill(pid, signal.SIGTERM)  # it ends the others, in seconds where all at once hang
            deadline = time.monotonic() + STOP_SECONDS
            while (lock := self._try_lock()) is None:
                if time.monotonic() > deadline:
                    _kill_group(pid)
                time.sleep(0.1)
            _kill_group(pid)  # what the first has left behind
        self._clear()
        os.close(lock)

    def _try_lock(self) -> int | None:
        """Ray holds this lock as long as it lives, so a recycled process id deceives nobody."""
        return try_lock(self._data_dir / "ray.lock")

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self._record.read_text())
        except (OSError, ValueError) as error:
            raise RayUnreachable(
                f"a Ray runs, but {self._record} does not tell where: end it; another is started"
            ) from error

    def _clear(self) -> None:
        """Remove what the Ray that has ended was recorded with."""
        with contextlib.suppress(RayUnreachable):
            if temporary := self._read().get("temporary"):
                _remove(temporary)
        self._record.unlink(missing_ok=True)

    def _start(self, lock: int) -> None:
        self._clear()
        log.info("starting Ray; its log is %s/ray.log", self._data_dir)
        ports, temporary = _free_ports(7), None
        if not network.fits(self._inside, network.RAY):
            temporary = tempfile.mkdtemp(prefix=_FOLDER, dir=_short_folder())
        folder = f"{temporary}/r" if temporary else self._inside  # which Ray opens to everyone
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
            "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
            "--disable-usage-stats", f"--temp-dir={folder}",
            "--no-monitor", "--include-log-monitor=false",  # of an autoscaler, and of drivers' logs
            f"--port={ports[0]}", f"--dashboard-port={ports[1]}",
            f"--dashboard-agent-listen-port={ports[2]}", f"--dashboard-agent-grpc-port={ports[3]}",
            f"--runtime-env-agent-port={ports[4]}", f"--metrics-export-port={ports[5]}",
            f"--ray-client-server-port={ports[6]}",
        ]  # fmt: skip
        with (self._data_dir / "ray.log").open("w") as output:
            process = subprocess.Popen(  # noqa: S603 (a fixed command)
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                env=_inherited() | self._environment | _short_paths(),
                pass_fds=[lock],
            )
        address = f"http://127.0.0.1:{ports[1]}"
        record = {"pid": process.pid, "address": address, "temporary": temporary}
        written = self._record.with_suffix(".tmp")
        try:
            written.write_text(json.dumps(record))
            written.replace(self._record)
        except OSError:  # nobody would find it again
            _kill_group(process.pid)
            process.wait()
            raise

    def _wait_for_answer(self) -> str:
        address = self._read()["address"]
        deadline = time.monotonic() + START_SECONDS
        # What the environment says of proxies is not meant for loopback.
        with httpx.Client(headers=self.headers, trust_env=False) as http:
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.TransportError):
                    if http.get(f"{address}/api/jobs/").is_success:
                        return address
                if (lock := self._try_lock()) is not None:
                    os.close(lock)
                    break
                time.sleep(0.2)
        raise RayUnreachable(
            f"Ray did not start within {START_SECONDS} s; see {self._data_dir}/ray.log"
        )


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _remove(folder: str) -> None:
    """Remove a folder that processes may still write into, which end as the Ray they were of."""
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        if not Path(folder).exists():
            return
        time.sleep(0.1)
    log.warning("cannot remove %s, which an ended Ray has left: remove it by hand", folder)


def _short_folder() -> str:
    return network.short_folder(len(f"/{_FOLDER}12345678/r") + network.RAY)


def _short_paths() -> dict[str, str]:
    """What Ray's processes, and so the drivers, need where the usual folder is too long for them.

    Ray's dashboard starts processes that it talks to by sockets below TMPDIR.
    """
    if network.is_short(tempfile.gettempdir(), network.MULTIPROCESSING):
        return {}
    return {"TMPDIR": network.short_folder(network.MULTIPROCESSING)}


def _inherited() -> dict[str, str]:
    """What Ray, and so every driver, has of the environment: not what the service is told there."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RHOCACHE_")}


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def try_lock(path: Path) -> int | None:
    """Lock a file, made if need be, and return its descriptor; None where another holds it.

    Only one process tree holds it at a time: whoever inherits the descriptor holds it too, and the
    kernel lets go when they end, however. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
