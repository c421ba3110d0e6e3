"""What joining a dataset with its cache costs: reading cache rows, checking pairs, whole batches.

    python -m benchmarks.join --rounds 5

Cache rows are read by one thread on one core, from files that the system keeps in memory, and
their files' hashes are checked. Beside them, on the same bytes, stand what nobody can avoid who
checks them, a SHA-256 and one copy. Everything takes turns in each round. What one thread does is
timed by the CPU time that it takes, for the machine is shared with others.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import open_clip
import psutil
import pyarrow as pa
import torch
import typer

from benchmarks.machine import describe
from rhocache_schemas import layout, storage
from rhocache_schemas.cache import shard_file
from rhocache_schemas.dataset.augmentation import Augmentation
from rhocache_schemas.dataset.formats.webdataset import ShardReader, WebDataset
from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.dataset.source import Source
from rhocache_trainer.cache.reader import ReferenceCache
from rhocache_trainer.data.augment import augment, pair_random
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.join import CachedPairs
from rhocache_trainer.data.loader import build_loader
from rhocache_trainer.data.open import open_pairs
from tests.caches import commit

SIZE = (224, 224)
AUGMENTATION = Augmentation()


def unit_rows(random: np.random.Generator, n: int, d: int) -> np.ndarray:
    rows = random.standard_normal((n, 1, d), dtype=np.float32)
    return (rows / np.linalg.norm(rows, axis=2, keepdims=True)).astype(np.float16)


def write_cache(folder: Path, shards: dict[str, list[tuple[str, bytes, bytes]]], d: int) -> str:
    """A cache of random rows for pairs: shard name -> key, image hash and caption hash of each."""
    random = np.random.default_rng(0)
    rows = {
        name: shard_file.ShardRows(
            keys=[key for key, _, _ in pairs],
            status=["ok"] * len(pairs),
            image=unit_rows(random, len(pairs), d),
            text=unit_rows(random, len(pairs), d),
            similarity=np.zeros(len(pairs), np.float32),
            image_hash=[image for _, image, _ in pairs],
            caption_hash=[caption for _, _, caption in pairs],
        )
        for name, pairs in shards.items()
    }
    return str(commit(folder, rows))


@contextmanager
def one_core() -> Iterator[None]:
    before, threads = os.sched_getaffinity(0), pa.cpu_count()
    os.sched_setaffinity(0, {min(before)})
    pa.set_cpu_count(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        pa.set_cpu_count(threads)


def in_turns(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median CPU seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()  # once for the caches, the system's and the allocator's
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.process_time()
            step()
            times[name].append(time.process_time() - started)
    return {name: median(each) for name, each in times.items()}


def cache_rows(folder: Path, shards: int, rows: int, d: int, rounds: int) -> list[str]:
    named = {
        f"{shard:05}.tar": [
            (f"{shard:05}{row:06}", number := (shard * rows + row).to_bytes(8, "big"), number)
            for row in range(rows)
        ]
        for shard in range(shards)
    }
    uri = write_cache(folder, named, d)
    files = [layout.shard_file(uri, name) for name in named]
    stored = [storage.read_bytes(file) for file in files]
    target = np.empty(max(map(len, stored)), np.uint8)

    def copy() -> None:
        for data in stored:
            target[: len(data)] = np.frombuffer(data, np.uint8)

    def read() -> None:
        cache = ReferenceCache.open(uri, kept_bytes=0)
        for name in named:
            cache.shard(name)

    with one_core():
        times = in_turns(
            {
                "read by ReferenceCache, hash checked": read,
                "SHA-256 of the files": lambda: [hashlib.sha256(data).digest() for data in stored],
                "one copy of the files": copy,
                "decoded by pyarrow alone, no hash": lambda: [
                    shard_file.decode(data, "") for data in stored
                ],
            },
            rounds,
        )
    n, size = shards * rows, sum(map(len, stored))
    ours, sha256, once, _ = times.values()
    return [
        f"{n:,} rows of d={d} in half precision, {shards} shard files, {size / n:.0f} bytes a row. "
        f"One core. Medians of {rounds}.",
        "",
        "| | rows per CPU second | GB/s |",
        "|---|---|---|",
        *(f"| {name} | {n / s:,.0f} | {size / s / 1e9:.2f} |" for name, s in times.items()),
        "",
        f"A SHA-256 and one copy would take {sha256 + once:.2f} s, reading takes {ours:.2f} s: "
        f"{(sha256 + once) / ours:.0%} of what the core can do at most.",
        "",
    ]


def one_pair(data: str, cache: str, rounds: int) -> list[str]:
    """Where the time of a pair goes, in one thread."""
    pairs = [pair for shard in list_shards(data) for pair in ShardReader(shard) if not pair.error]
    contents = [(pair.image or b"", pair.caption or "") for pair in pairs]
    joined = CachedPairs(WebDataset(Source(dataset=data)), ReferenceCache.open(cache))
    opened = ReferenceCache.open(cache)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    places = [(shard.name, row) for shard in joined.shards for row in range(shard.rows or 0)]
    random = pair_random(0, 0, "s", "k")

    def checks() -> None:
        for image, caption in contents:
            hash_image(image)
            hash_caption(caption)

    def decode() -> None:
        for image, _ in contents:
            augment(open_image(image), SIZE, AUGMENTATION, random)

    with one_core():
        times = in_turns(
            {
                "reading the tars": lambda: [
                    pair for shard in list_shards(data) for pair in ShardReader(shard)
                ],
                "finding and copying the cache's rows": lambda: [
                    opened.row(*place) for place in places
                ],
                "hashing images and captions": checks,
                "decoding, cropping, resizing": decode,
                "tokenizing": lambda: [tokenizer(caption) for _, caption in contents],
            },
            rounds,
        )
    total = sum(times.values())
    size = sum(len(image) for image, _ in contents) / len(contents)
    return [
        f"{len(contents)} pairs of openclipart, {size / 1000:.1f} kB an image, resized to "
        f"{SIZE[0]} pixels. One thread. Medians of {rounds}.",
        "",
        "| | CPU µs a pair | share |",
        "|---|---|---|",
        *(
            f"| {name} | {s / len(contents) * 1e6:.1f} | {s / total:.2%} |"
            for name, s in times.items()
        ),
        "",
    ]


def batches(data: str, cache: str, rounds: int) -> list[str]:
    """Pairs a second of the whole pipeline once it runs, and CPU time in all its processes."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    kinds = {
        "one thread of this process": (0, 1),
        "two threads of this process": (0, 2),
        "one worker process": (1, 1),
        "two worker processes": (2, 1),
    }
    steps, size = 24, 64
    seen: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name, (workers, threads) in kinds.items():
            for with_cache in (False, True):
                settings = Data(dataset=data, workers=workers, threads=threads, shuffle_buffer=256)
                pairs = open_pairs(settings, cache if with_cache else None)
                loader = build_loader(
                    settings, pairs, tokenizer, SIZE, AUGMENTATION, batch_size=size, seed=0
                )
                stream = iter(loader)
                for _ in islice(stream, 6):
                    pass
                wall, cpu = time.perf_counter(), cpu_of_all()
                for _ in islice(stream, steps):
                    pass
                rate = steps * size / (time.perf_counter() - wall)
                seen.setdefault((name, with_cache), []).append(
                    (rate, (cpu_of_all() - cpu) / (steps * size) * 1e6)
                )
                del stream, loader
    lines = [
        "| | pairs/s | CPU µs a pair | pairs/s with a cache | CPU µs a pair |",
        "|---|---|---|---|---|",
    ]
    for name in kinds:
        cells = [
            f"{median(each[i] for each in seen[name, with_cache]):.0f}"
            for with_cache in (False, True)
            for i in (0, 1)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [f"Batches of {size}, {steps} of them after 6. Medians of {rounds}.", "", *lines, ""]


def cpu_of_all() -> float:
    """CPU seconds of this process and of those below it."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(times.user + times.system for times in (each.cpu_times() for each in processes))


def main(
    data: Annotated[str, typer.Option(help="A folder of tars.")] = "examples/openclipart",
    shards: Annotated[int, typer.Option(help="Of the cache whose rows are read.")] = 10,
    rows: Annotated[int, typer.Option(help="In each of them.")] = 10_000,
    dimension: int = 512,
    rounds: int = 5,
    out: Annotated[str | None, typer.Option(help="Write the tables here, as Markdown.")] = None,
) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        hashed = {
            shard.name: [
                (pair.key, hash_image(pair.image or b""), hash_caption(pair.caption or ""))
                for pair in ShardReader(shard)
            ]
            for shard in list_shards(data)
        }
        cache = write_cache(Path(folder, "cache"), hashed, dimension)
        parts = (
            cache_rows(Path(folder, "large"), shards, rows, dimension, rounds),
            one_pair(data, cache, rounds),
            batches(data, cache, rounds),
        )
    text = "\n".join([describe(), "", *(line for part in parts for line in part)])
    print(text)
    if out is not None:
        Path(out).write_text(text)


if __name__ == "__main__":
    typer.run(main)
