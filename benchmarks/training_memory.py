"""What a rank of a training run holds of each pair: the moving averages u, and rows found by key.

    python -m benchmarks.training_memory

u is held whole and sharded in turn by several processes of this machine, over gloo; its checkpoints
are written into a temporary folder, and read again. Its time is that of both sides' updates, and
stands beside the loss's. Then a Parquet dataset of that many keys is joined with its cache, and tar
shards with the same.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
import typer
from torch.nn.functional import normalize

from benchmarks.join import write_cache
from benchmarks.machine import describe, forget_peak_memory, peak_memory
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.open import open_pairs
from rhocache_trainer.loss.contrastive import GlobalContrastiveLoss
from rhocache_trainer.training.checkpoint import Checkpoints, Rows

SHARD = 10_000
GAMMA = 0.5


def hold(rank: int, ranks: int, folder: Path, pairs: int, batch: int, rounds: int) -> list[Any]:
    """Return what one rank measures, of u that is whole and of u that is sharded."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=ranks)
    step(GlobalContrastiveLoss(4 * batch, gamma=GAMMA), batch, 0)  # what torch sets up once
    losses: list[GlobalContrastiveLoss] = []
    found: list[dict[str, float]] = []
    for sharded in (True, False):
        before = forget_peak_memory()
        losses.append(loss := GlobalContrastiveLoss(pairs, gamma=GAMMA, sharded=sharded))
        for average in (loss.image_average, loss.text_average):
            average.log_u.fill_(-1.0)
            average.seen.fill_(True)
        found.append({"held": peak_memory() - before})
        found[-1] |= checkpoint(loss, folder / str(sharded), rank, ranks)
    for name, part, times in (("u_ms", update, rounds), ("loss_ms", step, max(1, rounds // 10))):
        seconds: list[list[float]] = [[], []]
        for each in range(times):
            for loss, spent in zip(losses, seconds, strict=True):
                dist.barrier()
                spent.append(seconds_of(partial(part, loss, batch, each)))
        for measured, spent in zip(found, seconds, strict=True):
            measured[name] = 1e3 * median(spent)
    dist.destroy_process_group()
    return found[::-1]


def checkpoint(
    loss: GlobalContrastiveLoss, folder: Path, rank: int, ranks: int
) -> dict[str, float]:
    """Write and read u as a run does; memory is what is needed above u itself."""
    checkpoints = Checkpoints(folder, keep=1)
    averages = {"image": loss.image_average, "text": loss.text_average}
    tables = {f"{side}.{n}": t for side, each in averages.items() for n, t in each.rows().items()}
    rows = Rows(loss.image_average.held, tables)
    files: list[Any] = [None] * ranks

    def write() -> None:
        dist.all_gather_object(files, checkpoints.save_rows(1, rows, rank, ranks))
        if rank == 0:
            checkpoints.save(1, {}, [file for file in files if file])
        dist.barrier()

    def read() -> None:
        rows.fill(checkpoints.load()[1])
        dist.barrier()

    measured: dict[str, float] = {}
    for name, do in (("write", write), ("read", read)):
        before = forget_peak_memory()
        measured[f"{name}_s"] = seconds_of(do)
        measured[f"{name}_mb"] = peak_memory() - before
    return measured


def update(loss: GlobalContrastiveLoss, batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(loss.n // batch, (batch,), generator=generator)
    index += torch.arange(batch) * (loss.n // batch)
    log_g = torch.randn(batch, generator=generator)
    for average in (loss.image_average, loss.text_average):
        average.update(index, log_g, GAMMA)


def step(loss: GlobalContrastiveLoss, batch: int, seed: int) -> None:
    """Forward and backward on this rank's part of the batch."""
    generator = torch.Generator().manual_seed(seed)
    own = batch // loss.ranks.world_size
    first = own * loss.ranks.rank
    image, text = normalize(torch.randn(2, batch, 512, generator=generator), dim=2)
    leaves = [each[first : first + own].clone().requires_grad_() for each in (image, text)]
    index = torch.arange(first, first + own) * (loss.n // batch)
    loss(*leaves, index).loss.backward()


def seconds_of(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def make_pairs(folder: Path, pairs: int) -> None:
    """A Parquet dataset, tars that hold nothing, and a cache of small embeddings for either."""
    names = [f"{first:012}.tar" for first in range(0, pairs, SHARD)]
    (folder / "tars").mkdir()
    for name in names:
        (folder / "tars" / name).touch()
    keys = [[f"{int(name[:12]) + row:012}" for row in range(SHARD)] for name in names]
    hashed = b"\0" * 8
    shards = {n: [(k, hashed, hashed) for k in each] for n, each in zip(names, keys, strict=True)}
    write_cache(folder / "cache", shards, 8)
    flat = [key for each in keys for key in each]
    table = pa.table({"key": flat, "image": [b"0"] * pairs, "caption": [""] * pairs})
    pq.write_table(table, folder / "pairs.parquet", row_group_size=SHARD)


def join(folder: Path, dataset: str) -> list[float]:
    """Return the bytes a pair that opening takes at most, and that it leaves taken."""
    data, cache = Data(dataset=str(folder / dataset)), str(folder / "cache")
    before = forget_peak_memory()
    pairs = open_pairs(data, cache)
    peak = peak_memory() - before
    pa.default_memory_pool().release_unused()
    return [1e6 * each / pairs.n for each in (peak, forget_peak_memory() - before)]


def started(*options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.training_memory", *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> Any:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args} failed")
    return json.loads(out)


ROWS = {
    "held": "MB held",
    "write_mb": "MB above it, while a checkpoint is written",
    "read_mb": "MB above it, while one is read",
    "write_s": "seconds to write it",
    "read_s": "seconds to read it",
    "u_ms": "ms of a step that u takes",
    "loss_ms": "ms of the loss, forward and backward, with it",
}


def main(
    pairs: Annotated[int, typer.Option(help="Of which u is held.")] = 100_000_000,
    ranks: int = 4,
    batch: Annotated[int, typer.Option(help="Pairs a step, of all ranks.")] = 4096,
    rounds: int = 100,
    joined: Annotated[int, typer.Option(help="Pairs that are found by key.")] = 3_000_000,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
    rank: Annotated[int, typer.Option(hidden=True)] = -1,
    dataset: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    if folder is not None:
        measured = join(folder, dataset) if dataset else None
        print(json.dumps(measured or hold(rank, ranks, folder, pairs, batch, rounds)))
        return
    print(f"{describe()}\n\n{pairs:,} pairs, {ranks} processes, batches of {batch:,}.\n")
    with tempfile.TemporaryDirectory() as name:
        options = ["--folder", name, "--pairs", pairs, "--ranks", ranks, "--batch", batch]
        options += ["--rounds", rounds]
        of_ranks = [told(each) for each in [started(*options, "--rank", r) for r in range(ranks)]]
    print("| of the rank that takes most | u on every rank | u sharded |\n|---|---|---|")
    for key, row in ROWS.items():
        most = [max(rank[layout][key] for rank in of_ranks) for layout in (0, 1)]
        print(f"| {row} | {most[0]:,.4g} | {most[1]:,.4g} |")
    print(f"\n{joined:,} pairs with a cache.\n")
    print("| bytes a pair | while it is opened | then |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        make_pairs(Path(name), joined)
        for dataset in ("tars", "pairs.parquet"):
            opening, then = told(started("--folder", name, "--dataset", dataset))
            print(f"| {dataset} | {opening:.1f} | {then:.1f} |")


if __name__ == "__main__":
    typer.run(main)
