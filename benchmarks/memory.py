"""An encoder's peak memory, by the pairs of a shard and by the shards.

    python -m benchmarks.memory

The pairs of the examples come again and again with other keys, captions and bytes behind their
pictures, so that nothing is encoded once for all. Each size of a shard has a process of its own,
in which the driver's encoder works without Ray. The towers are small, the embeddings are not: what
grows with pairs would be keys, hashes, embeddings and pixels.
"""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe, peak_memory
from benchmarks.peers import pairs, random_reference
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.encode.encoder import Encoder
from rhocache_workers.encode.shard import MEMORIES

SMALL = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
THREADS = 2


def make_shard(path: Path, examples: list[tuple[str, bytes, str]], first: int, count: int) -> None:
    """Write the pairs that are numbered from ``first``, no two of them alike."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in range(first, first + count):
            _, image, caption = examples[number % len(examples)]
            # What follows a JPEG's end is not part of its picture.
            for suffix, data in (("jpg", image + b"%09d" % number), ("txt", f"{caption} {number}")):
                data = data if isinstance(data, bytes) else data.encode()
                info = tarfile.TarInfo(f"{number:09}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def measure(folder: Path, data: str, size: int, until: list[int]) -> list[float]:
    """Return the peak memory in MB after so many pairs, in shards of ``size``, first after none."""
    tars = sorted(str(path) for path in Path(data).glob("*.tar"))
    examples = list(pairs(tars))
    spec = ScoreSpec(
        dataset=str(folder / "dataset"),
        output=str(folder / "cache"),
        reference=ReferenceSpec(model=f"local-dir:{folder / 'model'}"),
        batch_size=32,
        metadata={},
    )
    encoder = Encoder(spec, THREADS)
    *_, _ = encoder.load({})
    peaks = [peak_memory()]
    for first in range(0, max(until), size):
        path = folder / "dataset" / f"{first:09}.tar"
        make_shard(path, examples, first, size)
        (shard,) = list_shards(str(path))
        for _ in encoder.encode(shard):
            pass
        path.unlink()
        if first + size in until:
            peaks.append(peak_memory())
    return peaks


def write(path: Path, head: list[str], lines: list[list[str]]) -> None:
    rows = [head, ["---"] * len(head), *lines]
    text = [
        "# An encoder's memory",
        "",
        "```",
        "python -m benchmarks.memory",
        "```",
        "",
        "Peak memory in MB, by the pairs of a shard and after so many pairs, no two of them alike. "
        f"The embeddings of the last {MEMORIES:,} images and as many captions are remembered by "
        "design, so it grows until there are as many. Most of it is torch.",
        "",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"On {describe()}.",
        "",
    ]
    path.write_text("\n".join(text))


def main(
    size: Annotated[list[int], typer.Option(help="Pairs of a shard.")] = [256, 2048, 16384],  # noqa: B006
    until: Annotated[list[int], typer.Option(help="Pairs after which to look.")] = [  # noqa: B006
        16384,
        32768,
        49152,
    ],
    data: Annotated[str, typer.Option(help="A folder of tars.")] = "examples/openclipart",
    out: Annotated[str | None, typer.Option(help="Write the table here, as Markdown.")] = None,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    if folder is not None:
        print(json.dumps(measure(folder, data, size[0], until)))
        return
    console, lines = Console(), list[list[str]]()
    for each in size:
        with tempfile.TemporaryDirectory() as name:
            random_reference(Path(name, "model"), SMALL)
            looks = [part for pairs in until for part in ("--until", str(pairs))]
            told = subprocess.run(
                [sys.executable, "-m", "benchmarks.memory", "--size", str(each), *looks,
                 "--data", data, "--folder", name],
                check=True, stdout=subprocess.PIPE,
            )  # fmt: skip
        lines.append([f"{each:,}", *(f"{peak:.0f}" for peak in json.loads(told.stdout))])
        console.print(*lines[-1], highlight=False)
    head = ["pairs of a shard", "no pair yet", *(f"{pairs:,} pairs" for pairs in until)]
    table = Table(*head, box=None)
    for line in lines:
        table.add_row(*line)
    console.print(table)
    if out is not None:
        write(Path(out), head, lines)


if __name__ == "__main__":
    typer.run(main)
