"""Writes the synchronous client from the asynchronous one: ``python client/generate.py``.

With ``--check`` nothing is written, and it fails where the file is not what would be written.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from unasync import Rule, unasync_files  # pyright: ignore

SOURCE = Path(__file__).parent / "rhocache" / "async_client.py"
TARGET = SOURCE.with_name("client.py")
CONFIGURATION = SOURCE.parents[2] / "pyproject.toml"
HEADER = "# Generated from async_client.py by `make client`: change that file.\n"
# Besides what unasync knows: async, await, AsyncIterator, __aenter__, ...
NAMES = {
    "AsyncBaseTransport": "BaseTransport",
    "AsyncCaches": "Caches",
    "AsyncClient": "Client",
    "AsyncHTTPTransport": "HTTPTransport",
    "AsyncJobs": "Jobs",
    "_AsyncSending": "_Sending",
    "aclose": "close",
    "aiter_bytes": "iter_bytes",
    "aiter_sse": "iter_sse",
    "aread": "read",
    "asyncio": "time",
    "handle_async_request": "handle_request",
}


def generate() -> str:
    with TemporaryDirectory() as folder:
        made = Path(folder, TARGET.name)
        unasync_files([str(SOURCE)], [Rule(str(SOURCE), str(made), NAMES)])
        made.write_text(HEADER + made.read_text())
        # Imports in order, and a loop that has become a plain "yield from" written as one.
        tidy = ["check", "--select=I,UP028", "--fix", "--unsafe-fixes", "--quiet"]
        for command in (tidy, ["format", "--quiet"]):
            ruff = [sys.executable, "-m", "ruff", *command, f"--config={CONFIGURATION}"]
            subprocess.run([*ruff, str(made)], check=True)  # noqa: S603 (fixed commands)
        return made.read_text()


def main() -> None:
    made = generate()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(made)
    elif made != TARGET.read_text():
        sys.exit(f"{TARGET} is not what {SOURCE.name} makes: write it anew with make client")


if __name__ == "__main__":
    main()
