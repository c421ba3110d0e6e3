"""How near the exact search for neighbours comes to the machine's matrix product.

    python -m benchmarks.neighbours --pairs 100000 --dimension 512

The job and its search alone take turns, a product of two large matrices before and after each, and
every one's share is of the products around it, so that a shared machine's moods cancel out; it is
of CPU time, as other work takes turns with all of them. All count the operations of the
similarities alone, 2 n² d. With ``--index`` an approximate one is told beside them, by the time
that it takes to be built and searched, and its recall.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import faiss as _faiss
import numpy as np
import torch
import typer

from benchmarks.losses import SHARD, embeddings, shard, take_turns, tell
from benchmarks.machine import describe
from rhocache_schemas.job.kinds.neighbours import NeighboursSpec
from rhocache_workers.over_cache.driver import make_table
from rhocache_workers.over_cache.neighbours.search import nearest
from rhocache_workers.over_cache.neighbours.work import Neighbours
from tests.caches import commit

faiss: Any = _faiss

BLOCK = 16_384
K = 10


def main(
    pairs: int = 100_000,
    dimension: int = 512,
    rounds: int = 3,
    threads: Annotated[int, typer.Option(help="Of faiss; a task of Ray's has one.")] = 1,
    index: Annotated[str | None, typer.Option(help="ivf or hnsw, to be tried too")] = None,
) -> None:
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    flops = 2 * pairs**2 * dimension
    vectors = embeddings(pairs, dimension, 0)[:, 0].astype(np.float32)
    numbers = np.arange(pairs)
    blocks = [(numbers[a : a + BLOCK], vectors[a : a + BLOCK]) for a in range(0, pairs, BLOCK)]

    def search() -> None:
        for own, queries in blocks:
            nearest(queries, own, blocks, k=K, threshold=None)

    with tempfile.TemporaryDirectory() as folder:
        sizes = [min(SHARD, pairs - start) for start in range(0, pairs, SHARD)]
        parts = {f"{n:03}.tar": shard(size, dimension, n) for n, size in enumerate(sizes)}
        cache = str(commit(Path(folder, "cache"), parts))
        del parts

        def job(kind: str = "flat") -> Any:
            spec = NeighboursSpec.model_validate(
                {"cache": cache, "output": f"{folder}/{time.time()}", "k": K, "index": kind}
            )
            return make_table(spec, Neighbours, here=True)

        tried: dict[str, Callable[[], Any]] = {
            "the whole job: reading, search, table": job,
            "its search alone": search,
        }
        shares = take_turns(tried, flops, rounds, warm_up=False)
        print(f"{pairs} pairs of {dimension} numbers, k={K}; {describe()}, {threads} threads\n")
        tell(shares, rounds)
        if index is not None:
            started = time.process_time()
            made = job(index)
            took = time.process_time() - started
            exact = flops * threads / median(shares["the whole job: reading, search, table"].rates)
            recall = made.summary.facts["recall"]
            print(f"\n{index}: recall {recall:.3f}, {took / exact:.2f} of the exact job's time")


if __name__ == "__main__":
    typer.run(main)
