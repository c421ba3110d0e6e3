"""Where the time of encoding goes: each stage alone, then all of them together.

    python -m benchmarks.stages --pairs 512 --rounds 3

Alone, a stage has both cores and caches for itself. What the whole run takes beyond the sum of the
stages is what they cost one another. A product of two large matrices before and after each step
makes the shares comparable on a machine that is shared with others.
"""

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from torch import Tensor

from benchmarks.encode import ours
from benchmarks.machine import describe, product_rate
from benchmarks.peers import random_reference
from benchmarks.shards import split
from benchmarks.work import useful_flops
from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.pair import Pair, hash_caption, hash_image
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.encode.batches import Towers
from rhocache_workers.encode.calibration import calibrate
from rhocache_workers.encode.decode import decode
from rhocache_workers.reference.model import load_reference

IMAGE, TEXT, WHOLE = "image tower", "text tower", "all together"

T = TypeVar("T")


def read(data: str) -> list[list[Pair]]:
    """The pairs of each shard, hashed as an encoder would."""
    shards = [list(ShardReader(shard)) for shard in list_shards(data, "*.tar")]
    for pairs in shards:
        for pair in pairs:
            hash_image(pair.image or b"")
            hash_caption(pair.caption or "")
    return shards


def different(shards: list[list[Pair]]) -> list[tuple[list[bytes], list[str]]]:
    """The images and captions of each shard that no shard before it has."""
    images: set[bytes] = set()
    captions: set[str] = set()
    return [
        (
            new((pair.image or b"" for pair in pairs if pair.error is None), images),
            new((pair.caption or "" for pair in pairs if pair.error is None), captions),
        )
        for pairs in shards
    ]


def new(items: Iterable[T], seen: set[T]) -> list[T]:
    """Those that were not seen before, which from then on they are."""
    found = [item for item in dict.fromkeys(items) if item not in seen]
    seen.update(found)
    return found


def timed(step: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of wall and of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(
    data: Annotated[str, typer.Option(help="A folder of tars.")] = "examples/openclipart",
    model: Annotated[str | None, typer.Option(help="local-dir; default: random ViT-B-32.")] = None,
    pairs: Annotated[int, typer.Option(help="The first, in two shards.")] = 512,
    rounds: int = 3,
    out: Annotated[str | None, typer.Option(help="Write the table here, as Markdown.")] = None,
) -> None:
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        model = model or random_reference(Path(folder, "model"))
        split(Path(data), Path(folder, "data"), pairs // 2, pairs)
        data = str(Path(folder, "data"))
        reference = load_reference(ReferenceSpec(model=f"local-dir:{model}"))
        towers = Towers(reference, calibrate(reference, None).batch_size)
        shards = different(read(data))
        pixels: list[list[Tensor]] = []
        for images, _ in shards:
            decoded = (decode(reference.preprocess, image) for image in images)
            pixels.append([each for each in decoded if isinstance(each, Tensor)])
        tokens = [reference.tokenizer(captions) for _, captions in shards]
        work = useful_flops(model, data, "*.tar")
        steps: dict[str, Callable[[], Any]] = {
            "reading and hashing": lambda: read(data),
            "decoding, in one thread": lambda: [
                decode(reference.preprocess, image) for images, _ in shards for image in images
            ],
            "tokenizing": lambda: [reference.tokenizer(captions) for _, captions in shards],
            IMAGE: lambda: [towers.images(shard) for shard in pixels],
            TEXT: lambda: [towers.texts(shard) for shard in tokens],
        }
        seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in (*steps, WHOLE)}
        note = ""
        for number in range(rounds):
            for name, times in seen.items():
                before = product_rate()
                if name == WHOLE:  # its start is not counted, and its CPU is another process's
                    run, embedded = ours(model, data, "*.tar", workers=1)
                    wall, cpu, note = len(embedded) / run.pairs_per_second, 0.0, run.note
                else:
                    wall, cpu = timed(steps[name])
                times.append((wall, cpu, (before + product_rate()) / 2))
            console.print(f"round {number + 1} of {rounds}", highlight=False)
    lines = [
        f"{pairs} pairs, {work.images} different images of {work.image_flops / 1e9:.0f} GFLOP and "
        f"{work.captions} different captions of {work.text_flops / 1e9:.0f} GFLOP. Batches of "
        f"{towers.batch_size}. {describe()}. Medians of {rounds}.",
        "",
        "| | seconds | CPU seconds | GFLOP/s | of the product's rate around it |",
        "|---|---|---|---|---|",
    ]
    flops = {IMAGE: work.image_flops, TEXT: work.text_flops, WHOLE: work.flops}
    for name, times in seen.items():
        wall, cpu = (median(each[i] for each in times) for i in (0, 1))
        rates = share = ""
        if name in flops:
            rates = f"{flops[name] / wall / 1e9:.0f}"
            share = f"{median(flops[name] / s / p for s, _, p in times):.0%}"
        lines.append(f"| {name} | {wall:.2f} | {f'{cpu:.2f}' if cpu else ''} | {rates} | {share} |")
    lines += ["", f"Together it was limited by {note}.", ""]
    text = "\n".join(lines)
    print(text)
    if out is not None:
        Path(out).write_text(text)


if __name__ == "__main__":
    typer.run(main)
