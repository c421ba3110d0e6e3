"""What storing embeddings in float32, float16 and int8 costs, and what it changes.

    python -m benchmarks.quantisation --rounds 5

Caches are written by `rhocache convert` from float32 ones: of examples/openclipart, scored with
examples/reference, and of random unit vectors as wide as a ViT-B-32's. The errors are what their
manifests state, of the first 256 usable rows of each shard against float32. They are read by the
trainer's reader, whose files' hashes are checked, in turns, and timed by CPU time.
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, get_args

import numpy as np
import typer

from benchmarks.machine import describe
from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import Dtype, ReferenceSpec
from rhocache_trainer.cache.reader import ReferenceCache
from rhocache_workers.maintain.convert import convert
from rhocache_workers.run.driver import score
from tests.caches import commit


def of_examples(folder: Path) -> str:
    spec = ScoreSpec(
        dataset="examples/openclipart",
        output=str(folder / "openclipart"),
        reference=ReferenceSpec(model="local-dir:examples/reference"),
        dtype="float32",
        metadata={},
    )
    score(spec, here=True)
    return spec.output


def of_random(folder: Path, shards: int, rows: int, d: int) -> str:
    random = np.random.default_rng(0)
    made: dict[str, shard_file.ShardRows] = {}
    for number in range(shards):
        image, text = random.standard_normal((2, rows, 1, d), dtype=np.float32)
        for vectors in (image, text):
            vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        hashes: list[bytes | None] = [random.bytes(16) for _ in range(rows)]
        made[f"{number:05}.tar"] = shard_file.ShardRows(
            [f"{number:05}{row:04}" for row in range(rows)],
            ["ok"] * rows,
            image,
            text,
            (image * text).sum((1, 2)),
            hashes,
            hashes,
        )
    return str(commit(folder / "random", made))


def seconds(cache: str) -> float:
    """CPU time to read all rows once."""
    opened = ReferenceCache.open(cache, kept_bytes=0)
    started = time.process_time()
    for name in opened.shards:
        opened.shard(name)
    return time.process_time() - started


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    rows: Annotated[int, typer.Option(help="random rows a shard")] = 10_000,
    shards: Annotated[int, typer.Option(help="of random rows")] = 4,
) -> None:
    print(f"{describe()}\n")
    print("| embeddings | dtype | bytes a pair | r: mean | 99 % | max | r/0.01: mean | 99 % | max "
          "| rows a CPU second |\n|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, exact in (
            ("openclipart, d = {d}", of_examples(folder)),
            ("random, d = {d}", of_random(folder, shards, rows, 512)),
        ):
            caches: dict[str, str] = {}
            for dtype in get_args(Dtype):
                caches[dtype] = str(folder / f"{Path(exact).name} {dtype}")
                convert(exact, dtype, caches[dtype])
            taken: dict[str, list[float]] = {dtype: [] for dtype in caches}
            for _ in range(rounds):
                for dtype, cache in caches.items():
                    taken[dtype].append(seconds(cache))
            for dtype, cache in caches.items():
                reader = CacheReader.open(cache)
                manifest, rounding = reader.manifest, reader.manifest.rounding
                assert rounding is not None
                bytes_ = sum(row.bytes for row in reader.index.values()) / manifest.rows
                errors = (
                    f"{getattr(spread, which):.1e}"
                    for spread in (rounding.similarity, rounding.logit)
                    for which in ("mean", "p99", "max")
                )
                rate = manifest.rows / median(taken[dtype])
                title = name.format(d=manifest.dimension)
                print(f"| {title} | {dtype} | {bytes_:.0f} | {' | '.join(errors)} | {rate:,.0f} |")


if __name__ == "__main__":
    typer.run(main)
