"""The contrastive risks against the same written with matrices, and against open_clip's ClipLoss.

``python -m benchmarks.loss`` prints time and memory of forward and backward, as Markdown. Each
round runs all contestants one after another, and they are compared within a round; memory is a
fresh process's, what it has at most above the features. ``--device cuda`` does so on a GPU.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from open_clip import ClipLoss
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import machine
from rhocache_trainer.loss.contrastive import DRRhoClipLoss, GlobalContrastiveLoss

TAU = 0.07
Step = Callable[[], Tensor]


def features(batch: int, width: int, device: str) -> list[Tensor]:
    """Image, text, and a reference's, [batch, width] each."""
    made = [normalize(torch.randn(batch, width, device=device), dim=1) for _ in range(4)]
    return [made[0].requires_grad_(), made[1].requires_grad_(), made[2], made[3]]


def tiles(image: Tensor, text: Tensor, *reference: Tensor) -> Step:
    loss = DRRhoClipLoss(len(image), tau=TAU, gamma=1.0).to(image.device)
    index = torch.arange(len(image), device=image.device)
    return lambda: loss(image, text, *reference, index).loss


def tiles_without_reference(image: Tensor, text: Tensor, *_: Tensor) -> Step:
    loss = GlobalContrastiveLoss(len(image), tau=TAU, gamma=1.0).to(image.device)
    index = torch.arange(len(image), device=image.device)
    return lambda: loss(image, text, index).loss


def matrices(image: Tensor, text: Tensor, *reference: Tensor) -> Step:
    """The surrogate of DRRHO at γ = 1 as one writes it: weights are constants for autograd."""
    tau = torch.tensor(TAU, device=image.device, requires_grad=True)
    rho = 4.0

    def side(s: Tensor, e: Tensor) -> Tensor:
        d = (e - e.diagonal()[:, None]) / tau.detach()
        d.fill_diagonal_(-torch.inf)
        log_g = torch.logsumexp(d, dim=1, keepdim=True)
        weights = torch.exp(d - log_g)
        d.fill_diagonal_(0)
        tau_gradient = log_g.squeeze(1) + rho - (weights * d).sum(1)
        pulled = (weights * (s - s.diagonal()[:, None])).sum(1)
        return (pulled + tau * tau_gradient).mean()

    def step() -> Tensor:
        s = image @ text.T
        e = s.detach() - reference[0] @ reference[1].T
        return side(s, e) + side(s.T, e.T)

    return step


def autograd(image: Tensor, text: Tensor, *reference: Tensor) -> Step:
    """The objective itself, all of it differentiated."""
    tau = torch.tensor(TAU, device=image.device, requires_grad=True)

    def side(e: Tensor) -> Tensor:
        d = (e - e.diagonal()[:, None]) / tau
        d = d.masked_fill(torch.eye(len(e), dtype=torch.bool, device=e.device), -torch.inf)
        return tau * torch.logsumexp(d, dim=1).mean()

    def step() -> Tensor:
        e = image @ text.T - reference[0] @ reference[1].T
        return side(e) + side(e.T)

    return step


def open_clip(image: Tensor, text: Tensor, *_: Tensor) -> Step:
    loss, scale = ClipLoss(), torch.tensor(1 / TAU, device=image.device, requires_grad=True)
    return lambda: loss(image, text, scale)


CONTESTANTS: dict[str, Callable[..., Step]] = {
    "DRRHO, tiles (rhocache)": tiles,
    "DRRHO, matrices": matrices,
    "DRRHO, all by autograd": autograd,
    "global, tiles (rhocache)": tiles_without_reference,
    "open_clip ClipLoss": open_clip,
}
# Products of B x B x d that forward and backward need at least, when no matrix is kept.
PRODUCTS = {"DRRHO, tiles (rhocache)": 6, "global, tiles (rhocache)": 4}


def seconds(step: Step, given: list[Tensor]) -> float:
    for tensor in given[:2]:
        tensor.grad = None
    device = given[0].device.type
    machine.wait_for(device)
    started = time.perf_counter()
    step().backward()
    machine.wait_for(device)
    return time.perf_counter() - started


def compare(batch: int, width: int, rounds: int, device: str) -> None:
    steps: dict[str, tuple[Step, list[Tensor]]] = {}
    for name, make in CONTESTANTS.items():
        given = features(batch, width, device)
        steps[name] = make(*given), given
        seconds(*steps[name])
    times: dict[str, list[float]] = {name: [] for name in steps}
    shares: dict[str, list[float]] = {name: [] for name in PRODUCTS}
    for _ in range(rounds):
        rate = machine.product_rate(device)
        for name, (step, given) in steps.items():
            times[name].append(seconds(step, given))
        for name, products in PRODUCTS.items():
            least = products * 2 * batch**2 * width / rate
            shares[name].append(least / times[name][-1])
    first = next(iter(times))
    print(f"\nBatches of {batch:,} pairs, d = {width}, medians of {rounds} rounds.\n")
    print("| | ms | time of rhocache's DRRHO = 1 | share of the products' rate |")
    print("|---|---|---|---|")
    for name, each in times.items():
        ratios = [one / own for one, own in zip(each, times[first], strict=True)]
        share = f"{statistics.median(shares[name]):.2f}" if name in shares else ""
        row = f"{1000 * statistics.median(each):,.1f} | {statistics.median(ratios):.2f} | {share}"
        print(f"| {name} | {row} |")


def memory(batches: list[int], width: int, device: str) -> None:
    print(f"\nMB that forward and backward take above the features, d = {width}.\n")
    print("| |", " | ".join(f"{batch:,}" for batch in batches), "|")
    print("|---" * (1 + len(batches)) + "|")
    for name in CONTESTANTS:
        cells: list[str] = []
        for batch in batches:
            matrix = batch**2 * 4 / 1e6  # as it would be to take more than this machine has
            if name not in PRODUCTS and matrix > 1000 and device == "cpu":
                cells.append(f"a matrix has {matrix:,.0f}")
                continue
            command = [sys.executable, "-m", "benchmarks.loss", "--one", name]
            command += ["--batch", str(batch), "--width", str(width), "--device", device]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            cells.append(f"{float(done.stdout):,.0f}")
        print(f"| {name} |", " | ".join(cells), "|")


def peak_above_features(name: str, batch: int, width: int, device: str) -> float:
    CONTESTANTS[name](*features(64, 8, device))().backward()  # libraries make room for themselves
    given = features(batch, width, device)
    step, before = CONTESTANTS[name](*given), machine.forget_peak_memory(device)
    step().backward()
    return machine.peak_memory(device) - before - sum(tensor.nbytes for tensor in given[:2]) / 1e6


def sent(batch: int, ranks: list[int], width: int) -> None:
    """By the counts that test_ranks.py holds the code to."""
    print(f"\nMB that a rank of so many sends in a step, {batch:,} pairs each, d = {width}; ")
    print("features in float32, the reference's in half precision.\n")
    print("| |", " | ".join(str(count) for count in ranks), "|")
    print("|---" * (1 + len(ranks)) + "|")
    row = batch * width * 4 * 2
    reference, index = batch * width * 2 * 2, batch * 8
    ours = [(n - 1) * (row + reference + index + 12 * batch * (n + 1)) / 1e6 for n in ranks]
    theirs = [(n - 1) * (2 * row + reference + index + 12 * batch) / 1e6 for n in ranks]
    for name, counts in (("features once, then scalars", ours), ("autograd's all-gather", theirs)):
        print(f"| {name} |", " | ".join(f"{count:,.1f}" for count in counts), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--large", type=int, default=32_768)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    if arguments.one:
        one = arguments.one, arguments.batch, arguments.width, arguments.device
        print(peak_above_features(*one))
        return
    threads = ", 2 threads" if arguments.device == "cpu" else ""
    print(f"{machine.describe(arguments.device)}{threads}, float32.")
    compare(arguments.batch, arguments.width, arguments.rounds, arguments.device)
    memory([arguments.batch, arguments.large], arguments.width, arguments.device)
    sent(1024, [2, 8, 32], arguments.width)


if __name__ == "__main__":
    main()
