"""Running ``rhocache serve`` beside a script."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


@contextmanager
def running_service(data_dir: Path) -> Iterator[str]:
    """Start the service on a free loopback port; give its URL once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    data_dir.mkdir(parents=True)
    executable = Path(sys.executable).with_name("rhocache")
    with (data_dir / "service.log").open("w") as log:
        process = subprocess.Popen(
            [executable, "serve", "--port", str(port), "--data-dir", data_dir],
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_ready(url, process, data_dir / "service.log")
            yield url
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            sys.exit(f"demo: the service did not start:\n{log.read_text()}")
        try:
            if httpx.get(f"{url}/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    sys.exit(f"demo: the service was not ready after a minute; see {log}")
