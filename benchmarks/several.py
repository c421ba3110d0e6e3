"""What a job of two references costs, beside a job for each.

    python -m benchmarks.several --rounds 3

Pairs of examples/openclipart, their pictures scaled to JPEGs of one size, are scored with two
references of random weights that take the same pictures: by one job into two caches, and by two
jobs one after the other. Costs are core seconds of this process while shards are encoded (loading
the references is the same work either way), both ways taking turns. ViT-B-32 is what encodes most
images; on a CPU its towers take most of the time, whereas beside a GPU reading and decoding do. So
the same is done with towers that cost next to nothing: there both ways differ by what is shared.
"""

import io
import shutil
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from PIL import Image
from rich.console import Console

from benchmarks import peers
from benchmarks.machine import describe
from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.reference_output import ReferenceOutput
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.run.driver import score

LIGHT = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 64, "patch_size": 32},
    "text_cfg": {
        "context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1,
    },
}  # fmt: skip
ARCHITECTURES = {"two ViT-B-32": None, "two light towers": LIGHT}


def write_pairs(folder: Path, pairs: int, side: int) -> str:
    """Two shards of pairs whose JPEGs are ``side`` x ``side`` pixels."""
    folder.mkdir()
    tars = sorted(map(str, Path("examples/openclipart").glob("*.tar")))
    found = list(zip(range(pairs), peers.pairs(tars), strict=False))
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for number, (_, image, text) in found[shard::2]:
                photo = io.BytesIO()
                picture = Image.open(io.BytesIO(image)).convert("RGB").resize((side, side))
                picture.save(photo, "JPEG", quality=90)
                for suffix, data in (("jpg", photo.getvalue()), ("txt", text.encode())):
                    info = tarfile.TarInfo(f"{number:09}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(folder)


class Clock:
    """Core seconds of this process while a run encodes."""

    def __init__(self) -> None:
        self._since: float | None = None
        self.seconds = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.phase == "encoding" and self._since is None:
            self._since = time.process_time()
        elif progress.phase == "finalizing" and self._since is not None:
            self.seconds, self._since = time.process_time() - self._since, None


def cost(spec: ScoreSpec) -> tuple[float, str]:
    """Return the core seconds of encoding, and what limited it; nothing is left of the caches."""
    clock = Clock()
    summary = score(spec, here=True, on_progress=clock)
    if [each.failed for each in (summary, *summary.also)] != [0] * len(spec.each):
        raise SystemExit("a pair failed")
    for output in spec.outputs:
        shutil.rmtree(output)
    return clock.seconds, summary.limited_by


def reference(folder: Path, architecture: str, number: int) -> ReferenceSpec:
    made = peers.random_reference(folder / f"{architecture} {number}", ARCHITECTURES[architecture])
    return ReferenceSpec(model=f"local-dir:{made}")


def main(
    pairs: Annotated[int, typer.Option(help="To score.")] = 256,
    side: Annotated[int, typer.Option(help="Of the JPEGs, in pixels.")] = 1024,
    rounds: int = 3,
) -> None:
    console = Console(stderr=True)
    torch.set_num_threads(1)
    rows: list[str] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = write_pairs(root / "pairs", pairs, side)
        for architecture in ARCHITECTURES:
            one, other = (reference(root, architecture, number) for number in range(2))
            spec = ScoreSpec(
                dataset=data, output=str(root / "one"), reference=one, batch_size=16, metadata={}
            )
            also = ReferenceOutput(reference=other, output=str(root / "other"))
            together = spec.model_copy(update={"also": [also]})
            ratios: list[float] = []
            seconds: dict[str, list[float]] = {"one job": [], "two jobs": []}
            for turn in range(rounds):
                (shared, limit), apart = cost(together), [cost(each) for each in together.each]
                seconds["one job"].append(shared)
                seconds["two jobs"].append(sum(took for took, _ in apart))
                ratios.append(seconds["one job"][-1] / seconds["two jobs"][-1])
                console.print(f"{turn + 1}: {architecture}: {ratios[-1]:.2f}", highlight=False)
            per_pair = [1000 * median(each) / pairs for each in seconds.values()]
            every = " ".join(f"{ratio:.2f}" for ratio in ratios)
            rows.append(
                f"| {architecture} | {per_pair[0]:.1f} | {per_pair[1]:.1f} | "
                f"{median(ratios):.2f} | {every} |"
            )
            notes.append(f"- {architecture}, one job: limited by {limit}")
    print(f"{describe()}. {pairs} pairs, JPEGs of {side} x {side} pixels, random weights.\n")
    print("| | one job, core ms a pair | two jobs | ratio | all rounds |\n|---|---|---|---|---|")
    print("\n".join([*rows, "", *notes]))


if __name__ == "__main__":
    typer.run(main)
