"""Where the time of encoding goes: each stage alone, then all of them together.

    python -m benchmarks.stages --pairs 512 --rounds 3

Alone, a stage has both cores and caches for itself. What the whole run takes beyond the sum of the
stages is what they cost one another. A product of two large matrices before and after each step
makes the shares comparable on a machine that is shared with others.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import open_clip
import torch
import typer
from rich.console import Console
from torch import Tensor

from benchmarks.encode import ours
from benchmarks.machine import describe, product_rate
from benchmarks.peers import random_reference
from benchmarks.shards import split
from rhocache_schemas.dataset import list_shards
from rhocache_schemas.pairs import Pair, hash_caption, hash_image
from rhocache_schemas.reference import ReferenceSpec
from rhocache_schemas.tar_shard import ShardReader
from rhocache_workers.calibration import calibrate
from rhocache_workers.decode import decode
from rhocache_workers.flops import Outline
from rhocache_workers.reference import load_reference
from rhocache_workers.towers import Towers

WHOLE = "all together"


def read(data: str) -> list[list[Pair]]:
    """The pairs of each shard, hashed as an encoder would."""
    shards = [list(ShardReader(shard)) for shard in list_shards(data, "*.tar")]
    for pairs in shards:
        for pair in pairs:
            hash_image(pair.image or b"")
            hash_caption(pair.caption or "")
    return shards


def different(data: str) -> list[tuple[list[bytes], list[str]]]:
    """The images and captions of each shard that no shard before it has."""
    images: set[bytes] = set()
    captions: set[str] = set()
    found = []
    for pairs in read(data):
        usable = [pair for pair in pairs if pair.error is None]
        new_images = [
            p for p in dict.fromkeys(pair.image or b"" for pair in usable) if p not in images
        ]
        new_captions = [
            c for c in dict.fromkeys(pair.caption or "" for pair in usable) if c not in captions
        ]
        images.update(new_images)
        captions.update(new_captions)
        found.append((new_images, new_captions))
    return found


def timed(step: Callable[[], Any]) -> tuple[float, float, float]:
    """Seconds of wall and of CPU, and the rate of a large product around it."""
    before = product_rate()
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return (
        time.perf_counter() - wall,
        time.process_time() - cpu,
        (before + product_rate()) / 2,
    )


def main(
    data: Annotated[str, typer.Option(help="A folder of tars.")] = "examples/openclipart",
    model: Annotated[str | None, typer.Option(help="local-dir; default: random ViT-B-32.")] = None,
    pairs: Annotated[int, typer.Option(help="The first, in two shards.")] = 512,
    rounds: int = 3,
    out: Annotated[str | None, typer.Option(help="Write the table here, as Markdown.")] = None,
) -> None:
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        model = model or random_reference(
            Path(folder, "model"), open_clip.get_model_config("ViT-B-32") or {}
        )
        split(Path(data), Path(folder, "data"), pairs // 2, pairs)
        data = str(Path(folder, "data"))
        reference = load_reference(ReferenceSpec(model=f"local-dir:{model}"))
        towers = Towers(reference, calibrate(reference, None).batch_size)
        shards = different(data)
        pixels: list[list[Tensor]] = []
        for images, _ in shards:
            decoded = (decode(reference.preprocess, image) for image in images)
            pixels.append([each for each in decoded if isinstance(each, Tensor)])
        tokens = [reference.tokenizer(captions) for _, captions in shards]
        outline = Outline(f"local-dir:{model}")
        lengths = reference.text_tower.lengths(torch.cat(tokens)).tolist()
        image_flops = sum(map(len, pixels)) * outline.image_flops()
        text_flops = sum(outline.text_flops(length) for length in lengths)
        steps: dict[str, tuple[Callable[[], Any], float]] = {
            "reading and hashing": (lambda: read(data), 0),
            "decoding, in one thread": (
                lambda: [decode(reference.preprocess, i) for shard, _ in shards for i in shard], 0,
            ),
            "tokenizing": (lambda: [reference.tokenizer(captions) for _, captions in shards], 0),
            "image tower": (lambda: [towers.images(shard) for shard in pixels], image_flops),
            "text tower": (lambda: [towers.texts(shard) for shard in tokens], text_flops),
        }  # fmt: skip
        seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in (*steps, WHOLE)}
        note = ""
        for number in range(rounds):
            for name, (step, _) in steps.items():
                seen[name].append(timed(step))
            before = product_rate()
            run, embedded = ours(model, data, "*.tar", workers=1)
            whole = len(embedded) / run.pairs_per_second
            seen[WHOLE].append((whole, 0, (before + product_rate()) / 2))
            note = run.note
            console.print(f"round {number + 1} of {rounds}", highlight=False)
    lines = [
        f"{pairs} pairs, {sum(map(len, pixels))} different images of {image_flops / 1e9:.0f} GFLOP "
        f"and {len(lengths)} different captions of {text_flops / 1e9:.0f} GFLOP. Batches of "
        f"{towers.batch_size}. {describe()}. Medians of {rounds}.",
        "",
        "| | seconds | CPU seconds | GFLOP/s | of the product's rate around it |",
        "|---|---|---|---|---|",
    ]
    flops = {name: work for name, (_, work) in steps.items()} | {WHOLE: image_flops + text_flops}
    for name, times in seen.items():
        wall, cpu = (median(each[i] for each in times) for i in (0, 1))
        rates = f"{flops[name] / wall / 1e9:.0f}" if flops[name] else ""
        share = f"{median(flops[name] / s / p for s, _, p in times):.0%}" if flops[name] else ""
        lines.append(f"| {name} | {wall:.2f} | {f'{cpu:.2f}' if cpu else ''} | {rates} | {share} |")
    lines += ["", f"Together it was limited by {note}.", ""]
    text = "\n".join(lines)
    print(text)
    if out is not None:
        Path(out).write_text(text)


if __name__ == "__main__":
    typer.run(main)
