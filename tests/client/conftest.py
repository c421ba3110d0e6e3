"""The service's application with no Ray to run jobs in: they stay where a test puts them."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from rhocache_service.app import create_app
from rhocache_service.registry import Registry
from rhocache_service.settings import Settings


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def application(root: Path) -> Iterator[tuple[str, Registry]]:
    nowhere = "http://127.0.0.1:9"
    app = create_app(Settings(data_dir=root, allow_root=[str(root)], ray_address=nowhere))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.registry
        server.should_exit = True
        thread.join()


@pytest.fixture
def url(application: tuple[str, Registry]) -> str:
    return application[0]


@pytest.fixture
def registry(application: tuple[str, Registry]) -> Registry:
    return application[1]
