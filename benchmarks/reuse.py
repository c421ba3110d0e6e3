"""How fast rows of another cache are taken, beside encoding.

    python -m benchmarks.reuse --rounds 3

Pairs of examples/openclipart are encoded with a ViT-B-32 of random weights. A larger cache of that
fingerprint is then filled with random vectors for the same pictures under captions of their own,
and pairs of it are scored again: those that lie together in it, in their order, and pairs from
anywhere in it, in any order. Of a cache that is far larger than what encoders keep of it, any order
costs up to a read of a row group for each pair: the last way does just that. Ways take turns; rates
are of an encoder at work, in this process.
"""

import tarfile
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from benchmarks import peers
from benchmarks.machine import describe, forget_peak_memory, peak_memory
from rhocache_schemas.cache.documents import Origin, Progress
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.rows import ShardRows
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.encode import reuse
from rhocache_workers.encode import shard as encode_shard
from rhocache_workers.maintain.derive import Made, Outline, deriving
from rhocache_workers.run.driver import score

SHARD = 4096  # pairs
EACH = 512  # pairs of the worst way
WORST = "reused, each pair from a row group that is read for it"
KEPT, WAITING = reuse._GROUP_BYTES, encode_shard.WINDOW_BYTES  # pyright: ignore[reportPrivateUsage]
Pictures = list[tuple[bytes, str]]  # image and caption


def caption(pictures: Pictures, number: int) -> str:
    """Of pair ``number``: that of its picture, and its own by the number."""
    return f"{pictures[number % len(pictures)][1]} {number}"


def write_pairs(folder: Path, pictures: Pictures, numbers: Sequence[int]) -> str:
    folder.mkdir()
    for first in range(0, len(numbers), SHARD):
        with tarfile.open(folder / f"{first // SHARD:05}.tar", "w") as tar:
            for number in numbers[first : first + SHARD]:
                image = pictures[number % len(pictures)][0]
                text = caption(pictures, number).encode()
                for suffix, data in (("jpg", image), ("txt", text)):
                    info = tarfile.TarInfo(f"{number:09}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, BytesIO(data))
    return str(folder)


def fill(made: CacheReader, out: str, pictures: Pictures, rows: int) -> None:
    """Write a cache of so many rows of random vectors, with the fingerprint of one that is made."""
    manifest, random = made.manifest, np.random.default_rng(0)
    origin = Origin(how="merged", sources=[], sources_sha256=[], format="none", dtype="float16")
    images = [hash_image(image) for image, _ in pictures]
    with deriving(out, Outline.of(manifest, manifest.fingerprint, origin), Made(out)) as writer:
        for first in range(0, rows, SHARD):
            numbers = range(first, min(rows, first + SHARD))
            shape = (len(numbers), 1, manifest.dimension)
            image, text = (random.standard_normal(shape, np.float32) for _ in range(2))
            for side in (image, text):
                side /= np.linalg.norm(side, axis=-1, keepdims=True)
            filled = ShardRows(
                keys=[f"{number:09}" for number in numbers],
                status=["ok"] * len(numbers),
                image=image.astype(np.float16),
                text=text.astype(np.float16),
                similarity=(image * text).sum((1, 2)),
                image_hash=[images[number % len(images)] for number in numbers],
                caption_hash=[hash_caption(caption(pictures, number)) for number in numbers],
            )
            writer.add_rows(Shard(f"{first // SHARD:05}.tar", "", 0, 0), filled, "0" * 64)


def steps(progress: Progress) -> dict[str, float]:
    """Seconds of each."""
    return {
        step.name: step.ended_at - step.started_at
        for step in progress.steps
        if step.ended_at is not None
    }


def main(
    pairs: Annotated[int, typer.Option(help="To encode.")] = 128,
    reused: Annotated[int, typer.Option(help="Pairs to take from the cache.")] = 8192,
    rows: Annotated[int, typer.Option(help="Of the cache that they are taken from.")] = 65_536,
    rounds: int = 3,
) -> None:
    console, random = Console(stderr=True), np.random.default_rng(1)
    tars = sorted(map(str, Path("examples/openclipart").glob("*.tar")))
    pictures: Pictures = [(image, text) for _, image, text in peers.pairs(tars)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = f"local-dir:{peers.random_reference(root / 'model')}"
        few = write_pairs(root / "few", pictures, range(pairs))
        # The shard that both begin in is no first of its cache: nothing of it is in memory yet.
        together = write_pairs(root / "together", pictures, range(SHARD, SHARD + reused))
        anywhere = random.choice(rows, reused, replace=False).tolist()
        scattered = write_pairs(root / "scattered", pictures, anywhere)
        filled = str(root / "filled")
        alone = write_pairs(root / "alone", pictures, anywhere[:EACH])
        ways = {
            "encoded": (few, []),
            "reused, in the order of the cache": (together, [filled]),
            "reused, in any order": (scattered, [filled]),
            WORST: (alone, [filled]),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        limits: dict[str, str] = {}
        looked = loaded = 0.0
        for turn in range(rounds):
            for number, (way, (dataset, caches)) in enumerate(ways.items()):
                spec = ScoreSpec(
                    dataset=dataset,
                    output=str(root / f"out-{number}-{turn}"),
                    reference=ReferenceSpec(model=model),
                    reuse=caches,
                    batch_size=16,
                    metadata={},
                )
                kept, waiting = (0, 1) if way == WORST else (KEPT, WAITING)
                reuse._GROUP_BYTES, encode_shard.WINDOW_BYTES = kept, waiting  # pyright: ignore[reportPrivateUsage]
                summary = score(spec, here=True)
                if not Path(filled).exists():
                    fill(CacheReader.open(spec.output), filled, pictures, rows)
                if summary.reused_pairs != (summary.rows if caches else 0):
                    raise SystemExit(f"{summary.reused_pairs} of {summary.rows} were reused: {way}")
                rates[way].append(summary.rows / summary.encoder_seconds)
                limits[way] = summary.limited_by
                took = steps(Progress.read(f"{spec.output}/progress.json"))
                looked = took.get("looking at what other caches have", looked)
                loaded = took["loading the reference"] + took["warming up"]
                console.print(f"{turn + 1}: {way} {rates[way][-1]:.1f} pairs/s", highlight=False)
        before = forget_peak_memory()
        table = reuse.tabulate(CacheReader.open(filled))
        peak, held = peak_memory() - before, table.mixes.nbytes + table.places.nbytes
    encoded = median(rates["encoded"])
    print(f"{describe()}. {len(pictures):,} pictures, ViT-B-32 of random weights, float16.")
    print(f"\n| {pairs:,} encoded, {reused:,} reused of {rows:,} | pairs/s (median) | all rounds |"
          " times encoding |\n|---|---|---|---|")  # fmt: skip
    for way, each in rates.items():
        every = " ".join(f"{rate:.1f}" for rate in each)
        print(f"| {way} | {median(each):.1f} | {every} | {median(each) / encoded:.0f}x |")
    print()
    for way, limit in limits.items():
        print(f"- {way}: limited by {limit}")
    print(f"- Before the first pair: {loaded:.1f} s to load and calibrate the reference, and "
          f"{looked:.2f} s to look at the rows, {1e6 * looked / rows:.1f} µs a row.")  # fmt: skip
    print(f"- The lookup takes {held / rows:.0f} bytes a row, and {1e6 * peak / rows:.0f} at its "
          "largest while it is made.")  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
