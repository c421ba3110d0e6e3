"""The KL-constrained risk."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.loss.temperature import MAXIMUM, MINIMUM, Temperature
from rhocache_trainer.risk.base import (
    Risk,
    RiskConfig,
    RiskOutput,
    check_form,
    check_rho,
    risk_output,
)
from rhocache_trainer.risk.last_seen import LastSeen, exact_risk
from rhocache_trainer.risk.mean_exp import GAMMA, MeanExp, exponential_weights


class KLBallConfig(RiskConfig):
    name: Literal["kl_ball"] = "kl_ball"
    rho: Annotated[float, Field(ge=0, description="the ball's radius is rho/n")]
    form: Annotated[
        Literal["exact", "learned"],
        Field(description="exact: of every sample's loss, as last seen; learned: with a learned τ"),
    ] = "exact"
    tau: Annotated[float, Field(ge=MINIMUM, description="of the learned form, to begin with")] = 1.0
    gamma: Annotated[float, Field(gt=0, le=1, description="of the learned form, as of kl")] = GAMMA

    def build(self, n: int) -> "KLBallRisk":
        return KLBallRisk(self.rho, n=n, form=self.form, tau=self.tau, gamma=self.gamma)


class KLBallRisk(Risk):
    """sup Σ p_i δ_i over KL(p ‖ uniform) ≤ ρ/n = min_{τ≥0} τ log mean exp(δ/τ) + τρ/n.

    The worst p is ∝ exp(δ/τ) with the τ at which its divergence is ρ/n. ρ = 0 gives the mean, and
    ρ/n ≥ log n the maximum, shared where several samples have it. The dual is Hu & Hong 2013,
    "Kullback-Leibler Divergence Constrained Distributionally Robust Optimization", Theorem 1.

    - ``form="exact"`` solves for τ. With ``n`` it remembers every sample's δ.
    - ``form="learned"`` has τ ≥ 0.01 as a parameter, whose gradient is
      log u + ρ/n − Σ share_i δ_i/τ; ``value`` is the dual at the τ of the time, an upper bound of
      the risk. With ``n`` it remembers u alone, as KLRisk does. Give ``parameters()`` to an
      optimizer without weight decay, which would pull τ to its floor.

    Args:
        rho: ρ ≥ 0.
        n: samples in the dataset, for mini-batches with ``index``. Without it n is the batch's.
        form: ``exact`` or ``learned``.
        tau: of the learned form, to begin with.
        gamma: of the learned form with ``n``, see KLRisk.

    Raises InvalidInput for values out of range.
    """

    def __init__(
        self,
        rho: float,
        *,
        n: int | None = None,
        form: Literal["exact", "learned"] = "exact",
        tau: float = 1.0,
        gamma: float = GAMMA,
    ) -> None:
        super().__init__(n)
        self.rho = check_rho(rho)
        self.form = check_form(form, ("exact", "learned"))
        if not MINIMUM <= tau <= MAXIMUM:
            raise InvalidInput(f"tau={tau} must be at least {MINIMUM} and finite in float32")
        self.memory = self.mean_exp = None
        if form == "learned":
            self.temperature = Temperature(tau, "learnable")
            average = MeanExp(gamma)  # checks γ in either case
            self.mean_exp = None if n is None else average
        elif n is not None:
            self.memory = LastSeen(n)

    def _risk(self, loss: Tensor, delta: Tensor, index: Tensor | None) -> RiskOutput:
        radius = self.rho / self._size(delta)
        if self.form == "exact":
            return exact_risk(
                loss, delta, index, self.memory, lambda delta: kl_ball_weights(delta, radius)
            )
        tau, _ = self.temperature()
        fixed = tau.detach().double()
        found = exponential_weights(delta, fixed, self.mean_exp, index)
        value = found.value + fixed * radius
        return risk_output(loss, found.share, value, (tau, found.slope + radius))


@torch.no_grad()
def kl_ball_weights(delta: Tensor, radius: float) -> Tensor:
    """The p of largest Σ p_i δ_i among those with KL(p ‖ uniform) ≤ radius; float64 [m] both."""
    top = delta.max()
    spread = top - delta.min()
    best = (delta == top).double()
    if spread == 0 or radius >= math.log(len(delta) / float(best.sum())):
        return best / best.sum()
    if radius == 0:
        return torch.full_like(delta, 1 / len(delta))
    z = (delta - top) / spread  # in [−1, 0], so that β = spread/τ is a plain number
    return torch.softmax(_inverse_temperature(z, radius) * z, 0)


def _inverse_temperature(z: Tensor, radius: float) -> float:
    """β with KL(softmax(βz) ‖ uniform) = radius, by Newton's method kept within a bracket.

    The divergence grows with β: its derivative is β times the variance of z under softmax(βz).
    """
    low, high = 0.0, math.inf
    beta = math.sqrt(2 * radius / float(z.var(correction=0)))  # exact for small radii
    for _ in range(200):
        log_p = torch.log_softmax(beta * z, 0)
        p = log_p.exp()
        mean = (p * z).sum()
        divergence = math.log(len(z)) + float((p * log_p).sum())
        slope = beta * float((p * (z - mean) ** 2).sum())
        low, high = (beta, high) if divergence < radius else (low, beta)
        step = (radius - divergence) / slope if slope > 0 else math.inf
        if not low < beta + step < high:
            step = (2 * beta if high == math.inf else (low + high) / 2) - beta
        beta += step
        if abs(step) <= 1e-12 * beta:
            break
    return beta
