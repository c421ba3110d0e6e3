"""Conditional value-at-risk: the mean of the worst share of samples."""

import math
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.loss.state import state_dtype
from rhocache_trainer.risk.base import Risk, RiskConfig, RiskOutput, check_form, risk_output
from rhocache_trainer.risk.last_seen import LastSeen, exact_risk


class CVaRConfig(RiskConfig):
    name: Literal["cvar"] = "cvar"
    alpha: Annotated[
        float | None, Field(gt=0, le=1, description="share of the samples that count, the worst")
    ] = None
    k: Annotated[float | None, Field(gt=0, description="or how many of them")] = None
    form: Annotated[
        Literal["topk", "dual"],
        Field(description="topk: of every sample's loss, as last seen; dual: with a learned μ"),
    ] = "topk"
    mu: Annotated[float, Field(description="of the dual form, to begin with")] = 0.0

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.k is None) == (self.alpha is None):
            raise ValueError(f"give either k or alpha, not k={self.k} and alpha={self.alpha}")
        return self

    def build(self, n: int) -> "CVaRRisk":
        return CVaRRisk(self.k, alpha=self.alpha, n=n, form=self.form, mu=self.mu)


class CVaRRisk(Risk):
    """The mean of the k largest of n residuals: sup Σ p_i δ_i over p_i ≤ 1/k = 1/(αn).

    Where k is not whole, the next largest counts with the fraction; k < 1 is the maximum. Samples
    that tie at the boundary share its weight.

    - ``form="topk"`` takes the largest. With ``n`` it remembers every sample's δ.
    - ``form="dual"`` is μ + mean (δ − μ)₊/α with a parameter μ (Rockafellar & Uryasev 2000,
      Theorem 1), an upper bound of the risk that is reached where μ is the k-th largest. It
      remembers nothing of the samples; μ has to be given to an optimizer, without weight decay,
      which would pull it to 0.

    Args:
        k: how many, 0 < k ≤ n.
        alpha: α in (0, 1], the share of samples; either this or k.
        n: samples in the dataset, for mini-batches with ``index``. Without it n is the batch's.
        form: ``topk`` or ``dual``.
        mu: of the dual form, μ to begin with, in the loss's unit.

    Raises InvalidInput for values out of range.
    """

    def __init__(
        self,
        k: float | None = None,
        *,
        alpha: float | None = None,
        n: int | None = None,
        form: Literal["topk", "dual"] = "topk",
        mu: float = 0.0,
    ) -> None:
        super().__init__(n)
        if (k is None) == (alpha is None):
            raise InvalidInput(f"give either k or alpha, not k={k} and alpha={alpha}")
        if k is not None and not 0 < k <= (math.inf if n is None else n):
            raise InvalidInput(f"k={k} must be above 0 and at most n={n}")
        if alpha is not None and not 0 < alpha <= 1:
            raise InvalidInput(f"alpha={alpha} must lie in (0, 1]")
        if not math.isfinite(mu):
            raise InvalidInput(f"mu={mu} must be finite")
        self.k, self.alpha = k, alpha
        self.form = check_form(form, ("topk", "dual"))
        self.memory = None
        if form == "dual":
            self.mu = nn.Parameter(torch.tensor(float(mu), dtype=state_dtype()))
        elif n is not None:
            self.memory = LastSeen(n)

    def _risk(self, loss: Tensor, delta: Tensor, index: Tensor | None) -> RiskOutput:
        n = self._size(delta)
        if self.k is not None and self.k > n:
            raise InvalidInput(f"k={self.k} of a batch of {n} samples")
        alpha = self.k / n if self.alpha is None else self.alpha  # pyright: ignore
        if self.form == "topk":
            return exact_risk(
                loss, delta, index, self.memory, lambda delta: top_weights(delta, alpha)
            )
        mu = self.mu.detach().double()
        share = (delta > mu).double() / (alpha * len(delta))
        value = mu + (delta - mu).clamp(min=0).mean() / alpha
        return risk_output(loss, share, value, (self.mu, 1 - share.sum()))


@torch.no_grad()
def top_weights(delta: Tensor, alpha: float) -> Tensor:
    """The p of largest Σ p_i δ_i among those with p_i ≤ 1/(αm); float64 [m] both."""
    k = max(alpha * len(delta), 1.0)
    boundary = delta.topk(math.ceil(k)).values[-1]
    above, tied = (delta > boundary).double(), (delta == boundary).double()
    return (above + tied * (k - above.sum()) / tied.sum()) / k
