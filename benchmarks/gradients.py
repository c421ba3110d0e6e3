"""How far the gradients of the contrastive risks are from the ones they should be.

``python -m benchmarks.gradients`` prints tables, as Markdown: against autograd through the
objective as it is on paper, and of several processes against one. tests/trainer/loss and
tests/trainer/distributed hold the code to them.
"""

import itertools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import machine
from rhocache_trainer.loss.contrastive import DRRhoClipLoss
from rhocache_trainer.loss.temperature import MODES
from tests.trainer.distributed import rank_steps

PAIRS, WIDTH, TAU, RHO, EPSILON = 64, 16, 0.07, 2.0, 1e-14


def objective(e: Tensor, tau: Tensor, scaled: bool) -> Tensor:
    """F of residuals e_ij over all pairs; ``tau`` is τ1 and τ2 of each, [n, 2]."""
    off = ~torch.eye(len(e), dtype=torch.bool)
    total = e.new_zeros(())
    for residuals, own_tau in ((e, tau[:, 0]), (e.T, tau[:, 1])):
        d = (residuals - residuals.diagonal()[:, None]) / own_tau[:, None]
        inner = torch.log(EPSILON + (d.exp() * off).sum(1) / (len(e) - 1))
        total = total + (own_tau * (inner + RHO) if scaled else inner).mean()
    return total


def against_autograd(mode: str, dtype: torch.dtype, *, scaled: bool) -> tuple[float, float]:
    """Largest differences of the features' gradients and of τ's, over the largest entry."""
    torch.manual_seed(0)
    made = [normalize(torch.randn(PAIRS, WIDTH, dtype=torch.float64), dim=1) for _ in range(4)]
    loss = DRRhoClipLoss(PAIRS, TAU, mode, RHO, 1.0, EPSILON, scaled=scaled).to(dtype)
    taus = TAU * (1 + torch.rand(loss.temperature.tau.shape, dtype=torch.float64))
    loss.temperature.tau.data.copy_(taus)
    given = [each.to(dtype).requires_grad_(number < 2) for number, each in enumerate(made)]
    loss(*given, torch.arange(PAIRS)).loss.backward()
    image, text = (each.detach().double().requires_grad_() for each in given[:2])
    tau = loss.temperature.tau.detach().double().requires_grad_()
    e = image @ text.T - given[2].double() @ given[3].double().T
    expected = torch.autograd.grad(objective(e, tau.expand(PAIRS, 2), scaled), [image, text, tau])
    features = _relative(zip(given[:2], expected, strict=False))
    learned = [] if mode == "constant" else [(loss.temperature.tau, expected[2])]
    return features, _relative(learned)


def _relative(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    worst = 0.0
    for parameter, expected in pairs:
        assert parameter.grad is not None
        got = parameter.grad.to_dense().double()
        worst = max(worst, float((got - expected).abs().max() / expected.abs().max()))
    return worst


def against_one_process(world_size: int) -> dict[str, float]:
    """Scenario -> largest difference of any gradient, of all steps and ways to share the batch."""
    asked = rank_steps.ASKED[world_size]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "store.json").write_text(json.dumps(asked))
        program = [sys.executable, rank_steps.__file__]
        outs = [folder / f"{rank}.pt" for rank in range(world_size)]
        started = [
            subprocess.Popen([*program, str(rank), str(world_size), folder / "store", out])
            for rank, out in enumerate(outs)
        ]
        if any(process.wait() for process in started):
            raise SystemExit("a process failed")
        ranks = [torch.load(out) for out in outs]
    worst: dict[str, float] = {}
    whole = {"parts": 1, "recompute": False}
    for number, each in enumerate(asked):
        alone = rank_steps.run(each["scenario"] | whole, [rank_steps.BATCH], 0)["gradients"]
        for rank in ranks:
            for one, other in zip(rank[number]["gradients"], alone, strict=True):
                difference = float((one - other).abs().max())
                worst[each["name"]] = max(worst.get(each["name"], 0.0), difference)
    return worst


def main() -> None:
    print(f"{machine.describe()}\n")
    print(f"Against autograd in float64, {PAIRS} pairs, relative to the largest entry.\n")
    print("| temperature | τ a factor | dtype | features | τ |\n|---|---|---|---|---|")
    for mode, scaled, dtype in itertools.product(
        MODES, (True, False), (torch.float64, torch.float32)
    ):
        features, tau = against_autograd(mode, dtype, scaled=scaled)
        told = "" if math.isclose(tau, 0) and mode == "constant" else f"{tau:.0e}"
        kind = str(dtype).removeprefix("torch.")
        print(f"| {mode} | {'yes' if scaled else 'no'} | {kind} | {features:.0e} | {told} |")
    found = {world_size: against_one_process(world_size) for world_size in rank_steps.SIZES}
    print(
        "\nOf several processes, batches shared equally and unequally, against one with the whole"
    )
    print(
        f"batch: the largest difference in {rank_steps.STEPS} steps of float64 (mixed: bfloat16).\n"
    )
    print("| | " + " | ".join(f"{size} processes" for size in found) + " |")
    print("|---" * (1 + len(found)) + "|")
    for name in rank_steps.SCENARIOS:
        print(f"| {name} | " + " | ".join(f"{each[name]:.0e}" for each in found.values()) + " |")


if __name__ == "__main__":
    main()
