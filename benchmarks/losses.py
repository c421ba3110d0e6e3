"""How near the job for global contrastive losses comes to the machine's matrix product.

    python -m benchmarks.losses --pairs 16384 --dimension 512

The job, its loop over tiles and the loop's matrix products alone take turns, a product of two large
matrices before and after each, and every one's share is of the products around it, so that a shared
machine's moods cancel out; it is of CPU time, as other work takes turns with all of them. All count
the operations of the similarities alone, 2 x 2 n² d.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor

from benchmarks.machine import SIDE, describe
from rhocache_schemas.cache.shard_file import ShardRows
from rhocache_schemas.job.kinds.losses import LossesSpec
from rhocache_workers.over_cache.contrastive import Losses
from rhocache_workers.over_cache.driver import make_table
from rhocache_workers.over_cache.log_mean_exp import TILES, RowSums, tensor
from tests.caches import commit

SHARD = 8192
NONE = np.empty(0, np.int64)


def embeddings(rows: int, dimension: int, seed: int) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((rows, 1, dimension), np.float32)
    return (made / np.linalg.norm(made, axis=-1, keepdims=True)).astype(np.float16)


def shard(rows: int, dimension: int, seed: int) -> ShardRows:
    keys = [f"{row:09}" for row in range(rows)]
    image, text = (embeddings(rows, dimension, 2 * seed + side) for side in range(2))
    hashes = [bytes(8)] * rows
    none = np.zeros(rows, np.float32)
    return ShardRows(keys, ["ok"] * rows, image, text, none, hashes, hashes)  # pyright: ignore


def seconds() -> float:
    """CPU time of this process, a thread."""
    return time.process_time() / torch.get_num_threads()


def product_rate(a: Tensor, b: Tensor) -> float:
    started = seconds()
    torch.mm(a, b)
    return 2 * SIDE**3 / (seconds() - started)


@dataclass
class Share:
    """What one of several came to, a number a round."""

    rates: list[float] = field(default_factory=list[float])  # FLOP/s
    of_product: list[float] = field(default_factory=list[float])


def take_turns(
    tried: Mapping[str, Callable[[], object]],
    flops: float,
    rounds: int,
    dtype: torch.dtype = torch.float32,
    *,
    warm_up: bool,
) -> dict[str, Share]:
    """Run each in turn, of so many operations; with ``warm_up`` once more before they count."""
    console = Console(stderr=True)
    a, b = torch.randn(2, SIDE, SIDE, dtype=dtype)
    product_rate(a, b)
    found = {name: Share() for name in tried}
    for number in range(0 if warm_up else 1, rounds + 1):
        for name, run in tried.items():
            before = product_rate(a, b)
            started = seconds()
            run()
            rate = flops / (seconds() - started)
            if number:
                found[name].rates.append(rate)
                found[name].of_product.append(2 * rate / (before + product_rate(a, b)))
        console.print(f"round {number} of {rounds}", highlight=False)
    return found


def tell(shares: Mapping[str, Share], rounds: int) -> None:
    print(f"| | GFLOP/s | share of the product's rate, median of {rounds} | all |")
    print("|---|---|---|---|")
    for name, each in shares.items():
        told = " ".join(f"{share:.2f}" for share in each.of_product)
        rate, share = median(each.rates) / 1e9, median(each.of_product)
        print(f"| {name} | {rate:.0f} | {share:.2f} | {told} |")


def multiply_only(rows: Tensor, columns: Tensor) -> None:
    height, width = TILES["cpu"]
    tile = torch.empty(height, width, dtype=rows.dtype)
    for top in range(0, len(rows), height):
        for left in range(0, len(columns), width):
            part = rows[top : top + height], columns[left : left + width]
            torch.mm(part[0], part[1].T, out=tile[: len(part[0]), : len(part[1])])


def main(
    pairs: int = 16_384,
    dimension: int = 512,
    rounds: int = 5,
    threads: Annotated[int, typer.Option(help="Of torch; a task of Ray's has one.")] = 1,
    tau: Annotated[float, typer.Option(help="Temperature; below 0.02 float64 is needed.")] = 0.05,
) -> None:
    torch.set_num_threads(threads)
    flops = 4 * pairs**2 * dimension
    rows, columns = (tensor(embeddings(pairs, dimension, seed)[:, 0], tau) for seed in (1, 2))
    own = (rows * columns).sum(1).double().numpy()

    def loop() -> None:
        for _ in range(2):  # images to texts, and back
            RowSums(rows, own, tau).add(columns, NONE, NONE)

    def products() -> None:
        for _ in range(2):
            multiply_only(rows, columns)

    with tempfile.TemporaryDirectory() as folder:
        sizes = [min(SHARD, pairs - start) for start in range(0, pairs, SHARD)]
        parts = {f"{n}.tar": shard(size, dimension, n) for n, size in enumerate(sizes)}
        cache = str(commit(Path(folder, "cache"), parts))

        def job() -> None:
            spec = LossesSpec(cache=cache, output=f"{folder}/{time.time()}", tau=tau)
            make_table(spec, Losses, here=True)

        tried: dict[str, Callable[[], None]] = {
            "the whole job: reading, losses, table": job,
            "its loop: products, exp, sums": loop,
            "the loop's products alone": products,
        }
        shares = take_turns(tried, flops, rounds, rows.dtype, warm_up=True)
    print(f"{pairs} pairs of {dimension} numbers; {describe()}, {threads} threads\n")
    tell(shares, rounds)


if __name__ == "__main__":
    typer.run(main)
