"""How fast pairs go through a frozen CLIP: rhocache and its peers, side by side.

    make benchmark    # or, without clip-retrieval's environment:
    python -m benchmarks.encode --data examples/openclipart --shards '0000[0-1].tar' --rounds 3

Each way runs in a process of its own, in turns, so that a machine's moods meet all of them. Rates
are of encoding alone: loading libraries and weights is left out everywhere. Of several encoders one
begins while others load, so theirs is by the seconds that they were at work.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from benchmarks import peers
from benchmarks.machine import describe, product_rate
from benchmarks.shards import split
from benchmarks.work import useful_flops
from rhocache_schemas.cache import shard_file
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.run.driver import score

BATCH = 32

Embedded = dict[str, tuple[np.ndarray, np.ndarray]]  # key -> image and text embedding, [d]


@dataclass(frozen=True, slots=True)
class Run:
    pairs_per_second: float
    note: str = ""


def ours(model: str, data: str, shards: str, workers: int) -> tuple[Run, Embedded]:
    with tempfile.TemporaryDirectory() as cache:
        spec = ScoreSpec(
            dataset=data,
            output=cache,
            shards=shards,
            reference=ReferenceSpec(model=f"local-dir:{model}"),
            dtype="float32",
            workers=workers,
            metadata={},
        )
        summary = score(spec)
        embedded: Embedded = {}
        for file in Path(cache, "shards").rglob("*.parquet"):
            rows, _ = shard_file.decode(file.read_bytes(), str(file))
            for number in np.flatnonzero(rows.ok):
                embedded[rows.keys[number]] = rows.image[number, 0], rows.text[number, 0]
    return Run(summary.rows * workers / summary.encoder_seconds, summary.limited_by), embedded


def run(
    way: str, model: str, data: str, shards: str, clip_retrieval: str | None
) -> tuple[Run, Embedded]:
    if way.startswith("rhocache"):
        return ours(model, data, shards, workers=int(way.rpartition(" ")[2]))
    tars = sorted(str(p) for p in Path(data).glob("*.tar") if fnmatch(p.name, shards))
    if way == CLIP_RETRIEVAL and clip_retrieval is not None:
        weights = f"{model}/open_clip_model.safetensors"
        seconds, embedded = peers.clip_retrieval(clip_retrieval, weights, tars, BATCH)
    else:
        encode = {"plain loop": peers.plain_loop, "Ray Data": peers.ray_data}[way]
        seconds, embedded = encode(model, tars, BATCH)
    return Run(len(embedded) / seconds), embedded


CLIP_RETRIEVAL = "clip-retrieval"
WAYS = ("rhocache, workers 1", "rhocache, workers 2", "plain loop", "Ray Data", CLIP_RETRIEVAL)


def difference(one: Embedded, other: Embedded) -> float:
    """The largest of a pair's similarity."""
    return max(
        abs(float(np.dot(*one[key])) - float(np.dot(*other[key]))) for key in one.keys() & other
    )


def main(
    data: Annotated[str, typer.Option(help="A folder of tars.")] = "examples/openclipart",
    shards: Annotated[str, typer.Option(help="Glob of the tars' names.")] = "*.tar",
    model: Annotated[str | None, typer.Option(help="local-dir; default: random ViT-B-32.")] = None,
    pairs: Annotated[
        int | None, typer.Option(help="Only the first, in two shards; default: all, as they are.")
    ] = None,
    rounds: int = 3,
    clip_retrieval: Annotated[
        str | None, typer.Option(help="Its command, in an environment of its own; left out else.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Write the table here, as Markdown.")] = None,
    way: Annotated[str | None, typer.Option(hidden=True)] = None,
    result: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    if way is not None and model is not None and result is not None:
        seen, embedded = run(way, model, data, shards, clip_retrieval)
        keys = sorted(embedded)
        image, text = (np.stack([embedded[key][side] for key in keys]) for side in (0, 1))
        np.savez(result, keys=keys, image=image, text=text)
        Path(result + ".json").write_text(json.dumps([seen.pairs_per_second, seen.note]))
        return
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        model = model or peers.random_reference(Path(folder, "model"))
        name = Path(data).name
        if pairs is not None:
            split(Path(data), Path(folder, name), pairs // 2, pairs)
            data = str(Path(folder, name))
        ways = [way for way in WAYS if way != CLIP_RETRIEVAL or clip_retrieval is not None]
        passed = ["--clip-retrieval", clip_retrieval] if clip_retrieval is not None else []
        rates: dict[str, list[float]] = {each: [] for each in ways}
        products: list[float] = []
        notes: dict[str, str] = {}
        found: dict[str, Embedded] = {}
        for number in range(rounds):
            for each in ways:
                products.append(product_rate())
                result = str(Path(folder, f"{WAYS.index(each)}.npz"))
                subprocess.run(
                    [sys.executable, "-m", "benchmarks.encode", "--data", data, "--shards", shards,
                     "--model", model, "--way", each, "--result", result, *passed],
                    check=True, capture_output=True,
                )  # fmt: skip
                rate, notes[each] = json.loads(Path(result + ".json").read_text())
                rates[each].append(rate)
                console.print(f"round {number + 1}: {each} {rate:.1f} pairs/s", highlight=False)
                with np.load(result) as file:
                    image, text = file["image"], file["text"]
                    found[each] = {
                        str(key): (image[i], text[i]) for i, key in enumerate(file["keys"])
                    }
        work = useful_flops(model, data, shards)
    first = found[WAYS[0]]
    bound = median(products)
    lines = [
        f"{len(first)} pairs of {name}, {work.images} different images and "
        f"{work.captions} different captions. {describe()}. A product of two 4096 x 4096 matrices "
        f"of float32 reached {bound / 1e9:.0f} GFLOP/s (median of {len(products)}, between runs).",
        "",
        "| | pairs/s (median) | all rounds | rhocache is | similarity differs by at most |",
        "|---|---|---|---|---|",
    ]
    best = median(rates[WAYS[0]])
    for each in ways:
        rate = median(rates[each])
        lines.append(
            f"| {each} | {rate:.1f} | {' '.join(f'{r:.1f}' for r in rates[each])} "
            f"| {best / rate:.2f}x | {difference(first, found[each]):.1g} |"
        )
    seconds = len(first) / best
    lines += [
        "",
        f"What is left after trimming and sharing is {work.flops / 1e9:.0f} GFLOP, or "
        f"{work.flops / 1e9 / len(first):.2f} a pair: done in {seconds:.1f} s, at "
        f"{work.flops / seconds / bound:.0%} of the matrix product's rate.",
        "",
        *(f"- {each}: limited by {notes[each]}" for each in ways if notes[each]),
    ]
    text_out = "\n".join(lines) + "\n"
    print(text_out)
    if out is not None:
        Path(out).write_text(text_out)


if __name__ == "__main__":
    typer.run(main)
