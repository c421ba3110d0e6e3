"""Where a learned temperature settles, and what its gradient sees of the weights' divergence.

``python -m benchmarks.temperature`` prints tables, as Markdown, of τ alone learned on features that
stay as they are: of a target that knows its pairs better than its reference does.
"""

import itertools
import math
import warnings

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import machine
from rhocache_trainer.loss.contrastive import DRRhoClipLoss
from rhocache_trainer.loss.moving_average import cosine_gamma

N, BATCH, WIDTH = 8000, 64, 32
GAMMAS = (1.0, 0.9, 0.8, 0.5, 0.2)
TAUS = (0.2, 0.1, 0.07, 0.05, 0.035, 0.025, 0.0125)


def features() -> list[Tensor]:
    """Image and text of the target and of the reference, [N, WIDTH] each."""
    torch.manual_seed(0)
    base = torch.randn(N, WIDTH)
    return [normalize(base + noise * torch.randn(N, WIDTH), dim=1) for noise in (0.7, 0.7, 1, 1)]


def epoch(loss: DRRhoClipLoss, given: list[Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Mean gradient by τ over an epoch of steps."""
    total = 0.0
    for index in torch.randperm(N).split(BATCH):
        optimizer.zero_grad()
        loss(*(each[index] for each in given), index).loss.backward()
        assert loss.temperature.tau.grad is not None
        total += float(loss.temperature.tau.grad)
        optimizer.step()
    return total / math.ceil(N / BATCH)


def divergence(given: list[Tensor], gamma: float, tau: float) -> float:
    """KL as τ's gradient, which is 2 (ρ − KL), has it: with u, once each pair was seen."""
    loss = DRRhoClipLoss(N, tau=tau, rho=0.0, gamma=gamma)
    still = torch.optim.SGD(loss.parameters(), lr=0.0)
    return -[epoch(loss, given, still) for _ in range(4)][-1] / 2


def settled(given: list[Tensor], gamma: float | None, rho: float | None, lr: float) -> float:
    """τ after 20 epochs from 0.07; γ None is the trainer's schedule down to 0.2."""
    loss = DRRhoClipLoss(N, rho=rho, gamma=gamma or 1.0)
    optimizer = torch.optim.Adam(loss.parameters(), lr=lr, betas=(0.9, 0.98))
    for number in range(20):
        if gamma is None:
            loss.gamma = cosine_gamma(number, 10, 0.2)
        epoch(loss, given, optimizer)
    return max(0.01, float(loss.temperature.tau.detach()))


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of a ρ that is too large
    given = features()
    print(f"{machine.describe()}\n")
    print(f"n = {N}, B = {BATCH}, log(B−1) = {math.log(BATCH - 1):.2f}.\n")
    print("The divergence that τ's gradient sees:\n")
    print("| γ | " + " | ".join(f"τ {tau:g}" for tau in TAUS) + " |")
    print("|---" * (1 + len(TAUS)) + "|")
    for gamma in GAMMAS:
        row = (f"{divergence(given, gamma, tau):.2f}" for tau in TAUS)
        print(f"| {gamma:g} | " + " | ".join(row) + " |", flush=True)
    rhos = {
        "the default, log(B−1)/3": None,
        "log(B−1)/2": math.log(BATCH - 1) / 2,
        "log(n−1)/2": math.log(N - 1) / 2,
    }
    gammas = (None, *GAMMAS)
    print("\nWhere τ settles, from 0.07:\n")
    names = ("1 to 0.2" if gamma is None else f"{gamma:g}" for gamma in gammas)
    print("| ρ | τ's rate | " + " | ".join(f"γ {name}" for name in names) + " |")
    print("|---" * (2 + len(gammas)) + "|")
    for (name, rho), lr in itertools.product(rhos.items(), (1e-3, 1e-4)):
        row = (f"{settled(given, gamma, rho, lr):.3f}" for gamma in gammas)
        print(f"| {name} | {lr:g} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
