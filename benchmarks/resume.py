"""What a run that goes on reads before it encodes: of an uncommitted cache in S3, far away.

    python -m benchmarks.resume --shards 1000 --shards 100000

Dataset and cache lie in a SeaweedFS behind a proxy that lets each request wait. Shard files are of
one pair: bytes are told as they are, and beside those of a cache of ViT-B-32's size. Without notes,
as after a run that was killed before it wrote its first, every shard file is read.
"""

import asyncio
import hashlib
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pyarrow import fs
from rich.console import Console
from rich.table import Table

from benchmarks.driver import A_FOLDER, SHARD
from benchmarks.machine import describe
from rhocache_schemas import layout, storage
from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.documents import Plan
from rhocache_schemas.cache.shard_file import OK, ShardRows
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.messages import committed_shard
from rhocache_workers.run.resume import choose_shards, resume
from rhocache_workers.run.segments import Segments
from rhocache_workers.run.standing import Standing
from tests.caches import FINGERPRINT

PAIRS, PAIR_BYTES = 10_000, 2097  # of a shard, and of a pair in half precision at d = 512
UPLOADS = 32  # threads
_METHODS = (b"GET", b"HEAD", b"PUT", b"POST", b"DELETE")


@dataclass(frozen=True, slots=True)
class Cost:
    what: str
    shards: int
    seconds: float
    requests: int
    read: int  # bytes


async def _serve(port: int, to: int, delay: float, counts: "Counts") -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", to)

        async def up() -> None:
            while data := await reader.read(1 << 16):
                if data.startswith(_METHODS):
                    counts.requests.value += 1
                    await asyncio.sleep(delay)
                inner_writer.write(data)
                await inner_writer.drain()
            inner_writer.close()

        async def down() -> None:
            while data := await inner_reader.read(1 << 16):
                counts.read.value += len(data)
                writer.write(data)
                await writer.drain()
            writer.close()

        await asyncio.gather(up(), down(), return_exceptions=True)

    server = await asyncio.start_server(forward, "127.0.0.1", port)
    await server.serve_forever()


@dataclass(frozen=True, slots=True)
class Counts:
    requests: Any  # multiprocessing.Value, as the proxy has a process of its own
    read: Any  # bytes


def _proxy(port: int, to: int, delay: float, counts: Counts) -> None:
    asyncio.run(_serve(port, to, delay, counts))


@contextmanager
def store(folder: Path, delay: float) -> Generator[Counts]:
    """A bucket called data, found by the usual variables, each request of which takes so long."""
    master, volume, filer, s3, proxy, *grpc = (_free_port() for _ in range(9))
    command = [str(Path(sys.executable).with_name("weed")), "server", "-s3", f"-dir={folder}",
               "-ip=127.0.0.1", "-master.telemetry=false", "-s3.port.iceberg=0",
               "-s3.port.lance=0"]  # fmt: skip
    for name, port, inner in zip(
        ("master", "volume", "filer", "s3"), (master, volume, filer, s3), grpc, strict=True
    ):
        command += [f"-{name}.port={port}", f"-{name}.port.grpc={inner}"]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}",
    }  # fmt: skip
    counts = Counts(multiprocessing.Value("q", 0), multiprocessing.Value("q", 0))
    with (folder / "weed.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    relay = multiprocessing.Process(target=_proxy, args=(proxy, s3, delay, counts), daemon=True)
    relay.start()
    try:
        _wait(f"http://127.0.0.1:{s3}")
        os.environ["FAR"] = f"http://127.0.0.1:{proxy}"
        yield counts
    finally:
        relay.kill()
        server.kill()
        server.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _wait(endpoint: str) -> None:
    while True:
        try:
            there = fs.S3FileSystem(endpoint_override=endpoint, allow_bucket_creation=True)
            there.create_dir("data")
        except OSError:
            time.sleep(0.2)
        else:
            return


def make(shards: int, *, noted: bool) -> ScoreSpec:
    """Lay a dataset, and a cache of it that no run has committed."""
    spec = ScoreSpec(
        dataset=f"s3://data/{shards}/dataset", output=f"s3://data/{shards}/cache-{noted}",
        reference=ReferenceSpec(model="local-dir:/nothing"), metadata={},
    )  # fmt: skip
    row = np.ones((1, 1, 1), np.float16)
    rows = ShardRows(
        ["0"], [OK], row, row, np.ones(1, np.float32), [hash_image(b"x")], [hash_caption("x")]
    )
    source = hashlib.sha256(SHARD).hexdigest()
    data = shard_file.encode(rows, FINGERPRINT.digest, source)
    totals, _ = shard_file.sum_up(data, "the file of every shard")
    names = [f"{number // A_FOLDER:04}/{number:07}.tar" for number in range(shards)]
    there, root = storage.resolve("s3://data")

    def put(name: str) -> None:
        for path, content in ((f"{spec.dataset}/{name}", SHARD),
                              (layout.shard_file(spec.output, name), data)):  # fmt: skip
            with there.open_output_stream(root + path.removeprefix("s3://data")) as stream:
                stream.write(content)

    with ThreadPoolExecutor(UPLOADS) as pool:
        list(pool.map(put, names))
    plan = Plan.begin(spec, FINGERPRINT, names, {"cpu": 1})
    storage.write_atomic(layout.plan_file(spec.output), plan.to_json())
    if noted:
        notes = Segments(spec.output, FINGERPRINT.digest, lambda: None)
        for shard in choose_shards(spec, None, None):
            notes.add(committed_shard(shard, totals, source))
        notes.flush()
    return spec


def measure(spec: ScoreSpec, shards: int, counts: Counts, *, noted: bool) -> Cost:
    os.environ["AWS_ENDPOINT_URL"], near = os.environ["FAR"], os.environ["AWS_ENDPOINT_URL"]
    counts.requests.value = counts.read.value = 0
    started = time.perf_counter()
    left = resume(spec, choose_shards(spec, None, None), Standing.of(spec.output), None, redo=False)
    seconds = time.perf_counter() - started
    os.environ["AWS_ENDPOINT_URL"] = near
    if (len(left.keep), left.todo) != (shards, []):
        raise SystemExit(f"{len(left.keep)} shards are kept of {shards}")
    what = "noted" if noted else "read"
    return Cost(what, shards, seconds, counts.requests.value, counts.read.value)


def main(
    shards: Annotated[list[int], typer.Option(help="How many; may be given again.")],
    delay: Annotated[float, typer.Option(help="Seconds that each request waits.")] = 0.02,
    read: Annotated[int, typer.Option(help="Most shards to measure without notes.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Write the table here, as Markdown.")] = None,
) -> None:
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory() as folder, store(Path(folder), delay) as counts:
        for count in shards:
            costs.extend(
                measure(make(count, noted=noted), count, counts, noted=noted)
                for noted in ((False, True) if count <= read else (True,))
            )
    head = ["shards are", "shards", "seconds", "requests", "MB read", "of the cache's bytes"]
    lines = [
        [cost.what, f"{cost.shards:,}", f"{cost.seconds:.1f}", f"{cost.requests:,}",
         f"{cost.read / 1e6:.1f}", f"{cost.read / (cost.shards * PAIRS * PAIR_BYTES):.4%}"]
        for cost in costs
    ]  # fmt: skip
    table = Table(*head)
    for line in lines:
        table.add_row(*line)
    Console().print(table)
    if out is not None:
        sizes = " ".join(f"--shards {count}" for count in shards)
        rows = [head, ["---"] * len(head), *lines]
        out.write_text(
            "# Going on with a cache that no run has committed\n\n"
            f"```\npython -m benchmarks.resume {sizes}\n```\n\n"
            "Until a run knows what is left to encode; dataset and cache in S3 (SeaweedFS), "
            f"{1e3 * delay:.0f} ms a request. The last column is beside a cache of {PAIRS:,} pairs "
            f"a shard and {PAIR_BYTES} bytes a pair: listings and notes do not grow with pairs, "
            "the shard files that are read without notes do, to all of it.\n\n"
            + "".join(f"| {' | '.join(row)} |\n" for row in rows)
            + f"\nOn {describe()}.\n"
        )


if __name__ == "__main__":
    typer.run(main)
