"""The KL-regularised risk."""

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.risk.base import Risk, RiskConfig, RiskOutput, risk_output
from rhocache_trainer.risk.mean_exp import GAMMA, MeanExp, exponential_weights


class KLConfig(RiskConfig):
    name: Literal["kl"] = "kl"
    tau: Annotated[float, Field(gt=0, description="temperature, in the loss's unit")]
    gamma: Annotated[float, Field(gt=0, le=1, description="weight of a batch in the average")] = (
        GAMMA
    )

    def build(self, n: int) -> "KLRisk":
        return KLRisk(self.tau, n=n, gamma=self.gamma)


class KLRisk(Risk):
    """sup_p Σ p_i δ_i − τ KL(p ‖ uniform) = τ log mean exp(δ/τ), reached by p ∝ exp(δ/τ).

    With ``n``, a batch's gradient is Σ exp(δ_i/τ)/(B u) ∇ℓ_i, where u is the moving average of
    mean exp(δ/τ) over batches, and ``value`` is τ log u (Qi et al. 2021, "An Online Method for a
    Class of Distributionally Robust Optimization with Non-convex Objectives").

    Args:
        tau: τ > 0, in the loss's unit. Large: the mean. Small: the maximum.
        n: samples in the dataset, for mini-batches with ``index``.
        gamma: γ in (0, 1], the weight of a new batch in u; ``mean_exp.gamma`` may be set at any
            time. 1 is no average: each batch then counts as if it were the dataset. Used with
            ``n`` only.

    Raises InvalidInput for values out of range.
    """

    def __init__(self, tau: float, *, n: int | None = None, gamma: float = GAMMA) -> None:
        super().__init__(n)
        if not 0 < tau < math.inf:
            raise InvalidInput(f"tau={tau} must be above 0 and finite")
        self.tau = float(tau)
        average = MeanExp(gamma)  # checks γ in either case
        self.mean_exp = None if n is None else average

    def _risk(self, loss: Tensor, delta: Tensor, index: Tensor | None) -> RiskOutput:
        found = exponential_weights(delta, delta.new_tensor(self.tau), self.mean_exp, index)
        return risk_output(loss, found.share, found.value)
