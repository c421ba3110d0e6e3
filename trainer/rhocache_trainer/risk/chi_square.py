"""The χ²-constrained risk."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from rhocache_trainer.risk.base import Risk, RiskConfig, RiskOutput, check_rho
from rhocache_trainer.risk.last_seen import LastSeen, exact_risk


class ChiSquareConfig(RiskConfig):
    name: Literal["chi_square"] = "chi_square"
    rho: Annotated[float, Field(ge=0, description="the ball's radius is rho/n")]

    def build(self, n: int) -> "ChiSquareRisk":
        return ChiSquareRisk(self.rho, n=n)


class ChiSquareRisk(Risk):
    """sup Σ p_i δ_i over ½ Σ q_i (p_i/q_i − 1)² ≤ ρ/n, q uniform, p_i ≥ 0.

    The worst p is ∝ (δ − η)₊, with η such that the ball's edge is reached. As long as no weight is
    cut off at 0, the risk is mean δ + √(2ρ Var(δ)/n) (Duchi & Namkoong 2019, Theorem 1). ρ = 0
    gives the mean; from ρ/n ≥ (n − 1)/2 on it is the maximum, shared where several samples have
    it. With ``n`` it remembers every sample's δ.

    Args:
        rho: ρ ≥ 0.
        n: samples in the dataset, for mini-batches with ``index``. Without it n is the batch's.

    Raises InvalidInput for values out of range.
    """

    def __init__(self, rho: float, *, n: int | None = None) -> None:
        super().__init__(n)
        self.rho = check_rho(rho)
        self.memory = None if n is None else LastSeen(n)

    def _risk(self, loss: Tensor, delta: Tensor, index: Tensor | None) -> RiskOutput:
        radius = self.rho / self._size(delta)
        return exact_risk(
            loss, delta, index, self.memory, lambda delta: chi_square_weights(delta, radius)
        )


@torch.no_grad()
def chi_square_weights(delta: Tensor, radius: float) -> Tensor:
    """The p of largest Σ p_i δ_i with ½ Σ q_i (p_i/q_i − 1)² ≤ radius; float64 [m] both.

    With p ∝ (δ − η)₊ the constraint is  m Σ (δ − η)₊² ≤ (1 + 2 radius) (Σ (δ − η)₊)²,  whose two
    sides' ratio grows with η. If the j largest δ have weight, with mean a and variance v, equality
    is at  η = a − √(m v / (2 radius j − (m − j))).  j is the smallest for which the constraint
    holds with η at the next δ, where all others have lost their weight.
    """
    m, edge = len(delta), 1 + 2 * radius
    top = delta.max()
    spread = top - delta.min()
    best = (delta == top).double()
    ties = int(best.sum())
    if spread == 0 or edge * ties >= m:
        return best / ties
    if radius == 0:
        return torch.full_like(delta, 1 / m)
    z = (delta - top) / spread  # in [−1, 0]: no square leaves the range, and sums at the top are 0
    ordered = z.sort(descending=True).values
    count = torch.arange(1, m, device=z.device)
    first, second = ordered.cumsum(0)[:-1], (ordered**2).cumsum(0)[:-1]
    eta = ordered[1:]
    sum_1 = first - count * eta
    sum_2 = second - 2 * eta * first + count * eta**2
    holds = (m * sum_2 <= edge * sum_1**2) & (count > ties)
    j = int(holds.int().argmax()) + 1 if bool(holds.any()) else m
    chosen = ordered[:j]
    room = max(2 * radius * j - (m - j), 1e-300)  # above 0 but for rounding
    eta = chosen.mean() - torch.sqrt(m * chosen.var(correction=0) / room)
    if j < m:
        eta = eta.clamp(min=ordered[j])
    weights = (z - eta).clamp(min=0)
    return weights / weights.sum()
