"""A job of 10**9 pairs in 100,000 shards on 1,000 encoders: what saturates first, and where.

    python -m benchmarks.scale

Constants are measured here with the real code: the driver's steps, the requests of a run to a real
S3 server, sizes, rows of the registry. Then jobs run in virtual time. What the machines would be is
said in numbers below, as are prices. Small real runs on several nodes, and readers of a cache of as
many shards, stand beside it.
"""

import math
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.machine import describe
from benchmarks.scale import readers
from benchmarks.scale.driver import Measured, measure
from benchmarks.scale.nodes import run
from benchmarks.scale.registry import bytes_of_events
from benchmarks.scale.requests import Counted, count
from benchmarks.scale.simulate import simulate
from rhocache_schemas import layout

PAIRS, PAIR_BYTES = 10_000, 30_000  # of a shard, and of a pair in the dataset
RATE = 500.0  # pairs an encoder encodes a second
LATENCY = 0.03  # seconds of the object store, a request
JOBS = ((10**3, 10), (10**4, 100), (10**5, 1000), (10**5, 2500), (10**5, 10_000), (10**6, 5000))
WRITES, READS = 3500, 5500  # requests a second and prefix, that S3 promises at least
# In dollars, as parameters: 1,000 requests that write and read, a GB a month, an encoder's hour.
A_WRITE, A_READ, A_GB, AN_HOUR = 5e-6, 4e-7, 0.023, 2.0
NODES, NODE_SHARDS = (1, 2, 4), 2000
COUNTED_BYTES = 3000  # of a pair in the dataset whose requests are counted

Rows = list[list[str]]


def table(head: list[str], rows: Rows) -> Iterator[str]:
    for line in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(line)} |"


def requests(counted: Counted) -> dict[str, float]:
    """Of a shard, by whether they read or write; those that read it grow with its bytes."""
    scale = PAIR_BYTES / COUNTED_BYTES
    found = {"read": 0.0, "write": 0.0}
    for (method, kind), number in counted.a_shard.items():
        grows = scale if (method, kind) == ("GET", "dataset") else 1
        found["read" if method in ("GET", "HEAD") else "write"] += number * grows
    return found


def jobs(measured: Measured, counted: Counted) -> Iterator[list[str]]:
    of_shard, seconds, costs = requests(counted), PAIRS / RATE, measured.costs(LATENCY)
    for shards, workers in JOBS:
        found = simulate(shards, workers, seconds, costs)
        single = simulate(min(shards, 10 * workers), workers, seconds, costs, at_once=False)
        rate = shards / found.seconds
        yield [
            f"{shards:,}",
            f"{workers:,}",
            f"{found.seconds / 3600:.2f}",
            f"{found.busy:.1%}",
            f"{found.encoding:.1%}",
            f"{found.late:.2f}",
            f"{single.encoding:.1%}",
            f"{rate * of_shard['read']:,.0f}",
            f"{rate * of_shard['write']:,.0f}",
            f"{(110e6 + shards * measured.memory) / 1e6:,.0f}",
        ]


def limits(measured: Measured, counted: Counted) -> Rows:
    """Encoders at which each part has no more to give."""
    of_shard, shards_a_second = requests(counted), RATE / PAIRS
    has = 1 - 3 * LATENCY - measured.progress  # of each second
    # A wait and a look serve all that is new: where there is much, they cost next to nothing.
    an_encoder = measured.event + shards_a_second * measured.shard
    # Where they are for each event, it is a n + b n² that the driver has the time for.
    a, b = an_encoder, (1 + shards_a_second) * (2 * measured.wait + measured.member)
    single = (math.sqrt(a * a + 4 * b * has) - a) / (2 * b)
    return [
        ["the driver's one thread, an event a wait", f"{single:,.0f}"],
        ["reads of one prefix of S3", f"{READS / (shards_a_second * of_shard['read']):,.0f}"],
        ["the driver's one thread", f"{has / an_encoder:,.0f}"],
        ["writes of one prefix of S3", f"{WRITES / (shards_a_second * of_shard['write']):,.0f}"],
    ]


def constants(measured: Measured, counted: Counted) -> Rows:
    def told(found: dict[tuple[str, str], float]) -> str:
        return ", ".join(f"{n:.1f} {' '.join(key)}" for key, n in sorted(found.items()))

    many, few = bytes_of_events(2000, 50), bytes_of_events(2, 0)
    return [
        ["a wait, for each shard in progress", f"{measured.wait * 1e6:.2f} µs"],
        ["to hear that a shard comes along", f"{measured.event * 1e6:.0f} µs"],
        ["to hand a shard out, hear of its end and note it", f"{measured.shard * 1e3:.2f} ms"],
        ["a look at who needs a shard, for each encoder", f"{measured.member * 1e9:.0f} ns"],
        ["progress.json of 100,000 shards, 2,000 in progress",
         f"{measured.progress * 1e3:.1f} ms, {measured.progress_bytes / 1e3:.0f} kB"],
        ["notes of 500 shards", f"{measured.segment * 1e3:.1f} ms"],
        ["memory of the driver for a shard", f"{measured.memory / 1e3:.1f} kB"],
        [f"requests of a shard of {PAIRS * COUNTED_BYTES / 1e6:.0f} MB",
         told(counted.a_shard)],
        ["requests of a second, its start and end included", told(counted.a_second)],
        ["connections of a shard", f"{counted.connections:.1f}"],
        ["registry, a second with 2,000 shards in progress and 50 that end",
         f"{many / 1e3:.1f} kB (SQLite)"],
        ["registry, a second with 2 shards in progress and none that ends", f"{few / 1e3:.1f} kB"],
    ]  # fmt: skip


def costs(counted: Counted, shards: int) -> Rows:
    of_shard = requests(counted)
    pairs = shards * PAIRS
    size = shards * counted.cache_bytes / 1e9
    return [
        ["encoders", f"{pairs / RATE / 3600:,.0f} hours", f"{pairs / RATE / 3600 * AN_HOUR:,.0f}"],
        ["requests that read", f"{shards * of_shard['read'] / 1e6:.1f} million",
         f"{shards * of_shard['read'] * A_READ:,.0f}"],
        ["requests that write", f"{shards * of_shard['write'] / 1e6:.2f} million",
         f"{shards * of_shard['write'] * A_WRITE:,.0f}"],
        ["the cache, a month", f"{size:,.0f} GB", f"{size * A_GB:,.0f}"],
    ]  # fmt: skip


def sizes() -> Iterator[list[str]]:
    for shards in (10**3, 10**4, 10**5, 10**6):
        with tempfile.TemporaryDirectory() as folder:
            readers.make(Path(folder), shards, PAIRS, files=False)
            cache = f"{folder}/cache"
            index, manifest = (
                Path(of(cache)).stat().st_size for of in (layout.index_file, layout.manifest_file)
            )
        (read,) = readers.measure(readers.open_it, shards, PAIRS, files=False)
        yield [f"{shards:,}", f"{shards * PAIRS:,}", f"{index / 1e6:.1f}", f"{manifest / 1e3:.1f}",
               f"{read.cpu:.2f}", f"{read.memory:.0f}"]  # fmt: skip


def read(lines: Iterable[readers.Read]) -> Rows:
    return [[e.what, f"{e.seconds:.2f}", f"{e.cpu:.2f}", f"{e.memory:.0f}"] for e in lines]


def report() -> Iterator[str]:
    measured, counted = measure(), count(PAIRS, COUNTED_BYTES)
    yield "## Constants\n"
    yield from table(["", ""], constants(measured, counted))
    yield "\n## In virtual time\n"
    head = ["shards", "encoders", "hours", "driver is busy", "encoders are",
            "a shard's end waits, s", "encoders are, an event a wait", "reads/s", "writes/s",
            "driver, MB"]  # fmt: skip
    yield from table(head, list(jobs(measured, counted)))
    yield ""
    yield from table(["saturates", "at so many encoders"], limits(measured, counted))
    yield ""
    yield from table(["100,000 shards", "", "dollars"], costs(counted, 10**5))
    yield "\n## Real runs\n"
    runs = [run(nodes, rest, NODE_SHARDS) for rest in (0.0, 0.1) for nodes in NODES]
    head = ["nodes", "an encoder rests, s a shard", "shards/s", "driver's CPU"]
    yield from table(
        head,
        [
            [f"{r.nodes}", f"{r.rest}", f"{r.shards_per_second:.0f}", f"{r.driver:.0%}"]
            for r in runs
        ],
    )
    yield "\n## Readers\n"
    head = ["shards", "pairs", "index, MB", "manifest, kB", "open, CPU s", "MB"]
    yield from table(head, list(sizes()))
    head = ["", "s", "CPU s", "MB more"]
    yield "\n10,000,000 keys in 1,000 shards:\n"
    yield from table(head, read(readers.measure(readers.join, 1000, 10_000, keys=True)))
    yield "\n1,000,000 pairs in 100,000 shards:\n"
    found = [readers.measure(reader, 10**5, 10) for reader in (readers.read_keys, readers.serve)]
    yield from table(head, read(each for reads in found for each in reads))
    yield f"\nOn {describe()}."


def main(
    out: Annotated[Path | None, typer.Option(help="Write it here too, as Markdown.")] = None,
) -> None:
    console, lines = Console(width=200), list[str]()
    for line in report():
        console.print(line, highlight=False, markup=False)
        lines.append(line)
    if out is not None:
        out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
