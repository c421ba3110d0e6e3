"""An object store whose requests are noted: which method, of what kind of file."""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.resume import store

_METHODS = (b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")
_KINDS = ("dataset/", "shards/", "segments/", "failures/", "lease", "progress", "plan", "index",
          "manifest")  # fmt: skip


class Notes:
    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()  # (method, kind of file)
        self.connections = 0

    def note(self, line: bytes) -> None:
        method, _, target = line.partition(b" ")
        path, _, query = target.decode().partition(" ")[0].partition("?")
        if "list-type" in query or "prefix=" in query:
            kind = "listing"
        else:
            kind = next((kind for kind in _KINDS if kind in path), "other").rstrip("/")
        self.requests[method.decode(), kind] += 1


@contextmanager
def noting_store(folder: Path) -> Generator[tuple[Notes, str]]:
    """A bucket called data, and the endpoint through which requests of it are noted."""
    notes = Notes()
    with store(folder, 0.0):
        port = int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(_listen(port, notes), loop).result()
        yield notes, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _listen(to: int, notes: Notes) -> asyncio.Server:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        notes.connections += 1
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", to)

        async def pass_on(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, noted: bool
        ) -> None:
            while data := await source.read(1 << 16):
                if noted and data.startswith(_METHODS):
                    notes.note(data.partition(b"\r\n")[0])
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(
            pass_on(reader, inner_writer, noted=True),
            pass_on(inner_reader, writer, noted=False),
            return_exceptions=True,
        )

    return await asyncio.start_server(forward, "127.0.0.1", 0)
