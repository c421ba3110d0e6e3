"""What makes an image tower faster on a CPU, and what does not: each way against a matrix product.

    python -m benchmarks.towers --rounds 5

The ways take turns, a product of two large matrices before each, and every way's share is of the
products around it, so that a shared machine's moods cancel out.
"""

import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from benchmarks.machine import SIDE, describe
from benchmarks.peers import random_reference
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.plan.flops import Outline
from rhocache_workers.reference.model import Reference, load_reference

Encode = Callable[[Tensor], Tensor]  # uint8 [B, 3, height, width] to float32 [B, d]


class OneDnnLinear(nn.Module):
    """A Linear whose weights lie as oneDNN's kernels read them."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        self._bias = linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")


class MklLinear(nn.Module):
    """The same for MKL's, which wants to know the number of rows."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self._weight, self._bias, self._rows = linear.weight.detach(), linear.bias.detach(), rows
        self._packed = torch.ops.mkl._mkl_reorder_linear_weight(self._weight, rows)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        found = torch.ops.mkl._mkl_linear(flat, self._packed, self._weight, self._bias, self._rows)
        return found.view(*x.shape[:-1], -1)


def packed(reference: Reference, kind: Any, batch: int) -> Encode:
    """With the linear layers of the blocks' MLPs, two thirds of the work, in another form."""
    visual = copy.deepcopy(reference.model.visual)
    rows = batch * visual.positional_embedding.shape[0]
    for block in visual.transformer.resblocks:
        for name in ("c_fc", "c_proj"):
            setattr(block.mlp, name, kind(getattr(block.mlp, name), rows))
    return plain(reference, visual)


def plain(
    reference: Reference, visual: Any, memory_format: Any = torch.contiguous_format
) -> Encode:
    def encode(pixels: Tensor) -> Tensor:
        normal = reference.preprocess.normalize(pixels).contiguous(memory_format=memory_format)
        return nn.functional.normalize(visual(normal), dim=-1)

    return encode


def ways(reference: Reference, batch: int) -> dict[str, Encode]:
    visual = reference.model.visual
    channels_last = copy.deepcopy(visual).to(memory_format=torch.channels_last)
    return {
        "as rhocache does": reference.encode_images,
        "open_clip's whole tower": plain(reference, visual),
        "channels last": plain(reference, channels_last, torch.channels_last),
        "MLP weights packed for oneDNN": packed(reference, OneDnnLinear, batch),
        "MLP weights packed for MKL": packed(reference, MklLinear, batch),
        "torch.compile, freezing": plain(
            reference, torch.compile(copy.deepcopy(visual), options={"freezing": True})
        ),
    }


def product(a: Tensor, b: Tensor) -> float:
    started = time.perf_counter()
    torch.mm(a, b)
    return 2 * SIDE**3 / (time.perf_counter() - started)


@torch.no_grad()
def main(
    model: Annotated[str | None, typer.Option(help="local-dir; default: random ViT-B-32.")] = None,
    rounds: int = 5,
    batch: Annotated[int, typer.Option(help="Images of every way but those of the sizes.")] = 32,
    out: Annotated[str | None, typer.Option(help="Write the table here, as Markdown.")] = None,
) -> None:
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        model = model or random_reference(Path(folder, "model"))
        reference = load_reference(ReferenceSpec(model=f"local-dir:{model}"))
        flops = Outline(f"local-dir:{model}").image_flops()
    pixels = torch.randint(0, 256, (batch, 3, *reference.image_size), dtype=torch.uint8)
    expected = reference.encode_images(pixels)
    tried = {name: (encode, pixels) for name, encode in ways(reference, batch).items()}
    for size in (1, 8, 16, 64, 128):
        of_size = pixels[torch.arange(size) % batch]
        tried[f"as rhocache does, {size} images"] = reference.encode_images, of_size
    a, b = torch.randn(2, SIDE, SIDE)
    shares: dict[str, list[float]] = {name: [] for name in tried}
    largest: dict[str, float] = {}
    for number in range(rounds + 1):  # the first warms up
        for name, (encode, images) in tried.items():
            before = product(a, b)
            started = time.perf_counter()
            found = encode(images)
            rate = len(images) * flops / (time.perf_counter() - started)
            share = 2 * rate / (before + product(a, b))
            if number:
                shares[name].append(share)
            same = expected[torch.arange(len(images)) % batch]
            largest[name] = float((found - same).abs().max())
        console.print(f"round {number} of {rounds}", highlight=False)
    lines = [
        f"Batches of {batch} images of {describe()}, {torch.get_num_threads()} threads. A share "
        f"is of the rate of products of two {SIDE} x {SIDE} matrices right before and after.",
        "",
        f"| | share of the product's rate, median of {rounds} | all | differs by at most |",
        "|---|---|---|---|",
        *(
            f"| {name} | {median(each):.2f} | {' '.join(f'{s:.2f}' for s in each)} "
            f"| {largest[name]:.1g} |"
            for name, each in shares.items()
        ),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if out is not None:
        Path(out).write_text(text)


if __name__ == "__main__":
    typer.run(main)
