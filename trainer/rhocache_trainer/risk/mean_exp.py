"""Weights from exp(δ/τ), and the dataset's mean of it as a moving average over batches."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rhocache_trainer.loss.state import OwnState
from rhocache_trainer.loss.validate import check_gamma

_LOWEST = torch.finfo(torch.float64).min

# Unless told otherwise: about as many batches as u is the mean of are 1/γ. u is one number that
# every batch renews, so that it may go back far more batches than a pair's average, which is
# renewed once an epoch.
GAMMA = 0.1


class MeanExp(OwnState):
    """u ← (1−γ) u + γ · batch mean of exp(δ/τ); the first batch's mean is the first u.

    One number for the whole dataset, because the mean runs over all samples whichever one asks.
    u leaves the range of any float at small temperatures, and log u has, beyond |δ|/τ of 10¹⁵, no
    digits left for the differences that make the weights. It is held as the largest δ that it is
    made of, the τ that divided it, and the logarithm of what exp(peak/τ) is multiplied with.
    """

    least = torch.float64
    peak: Tensor  # 0-dim
    tau: Tensor  # 0-dim
    log_rest: Tensor  # 0-dim, log u − peak/τ
    seen: Tensor  # 0-dim bool

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        for name, value in (("peak", 0.0), ("tau", 1.0), ("log_rest", 0.0)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    @property
    def gamma(self) -> float:
        """Weight of the new batch, in (0, 1]. Settable at any time."""
        return self._gamma

    @gamma.setter
    def gamma(self, value: float) -> None:
        self._gamma = check_gamma(value)

    def update(
        self, peak: Tensor, tau: Tensor, log_rest: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take in the mean exp(peak/τ + log_rest) of a batch; give the same two numbers of u.

        ``index`` is the batch's, [B]; all else is 0-dim float64.
        """
        u = torch.stack([peak, log_rest])
        if self.gamma < 1:  # log(1−γ) is not a number to add
            old = self.peak * (tau / self.tau)  # over τ it is what it was
            top = torch.maximum(old, peak)
            log_mean = torch.logaddexp(
                math.log1p(-self.gamma) + self.log_rest + (old - top) / tau,
                math.log(self.gamma) + log_rest + (peak - top) / tau,
            )
            u = torch.where(self.seen, torch.stack([top, log_mean]), u)

        def write() -> None:
            self.peak.copy_(u[0])
            self.log_rest.copy_(u[1])
            self.tau.copy_(tau)
            self.seen.fill_(True)

        peak, log_rest = self.keep(index, u, write)
        return peak, log_rest


@dataclass(frozen=True, slots=True)
class ExponentialWeights:
    """With g a batch's mean of exp(δ/τ), and u = g or its moving average."""

    share: Tensor  # [B], exp(δ_i/τ)/(B u), of sum g/u: at most 1/γ
    value: Tensor  # 0-dim, τ log u
    slope: Tensor  # 0-dim, its derivative by τ, log u − Σ share_i δ_i/τ


def exponential_weights(
    delta: Tensor, tau: Tensor, mean_exp: MeanExp | None, index: Tensor | None
) -> ExponentialWeights:
    """Of a batch's δ, [B], at τ, 0-dim; all float64 and detached.

    Differences of δ are divided by τ, not δ themselves: however large those are, weights that
    should be comparable are.
    """
    top = peak = delta.max()
    log_g = log_rest = torch.logsumexp((delta - top) / tau, 0) - math.log(len(delta))
    if mean_exp is not None and index is not None:
        peak, log_rest = mean_exp.update(top, tau, log_g, index)
    z = ((delta - peak) / tau).clamp(min=_LOWEST)
    share = torch.exp(z - log_rest) / len(delta)
    beyond = -torch.expm1((top - peak) / tau + log_g - log_rest)  # 1 − Σ share, to the last digit
    return ExponentialWeights(
        share,
        peak + tau * log_rest,
        log_rest - (share * z).sum() + beyond * (peak / tau).clamp(_LOWEST, -_LOWEST),
    )
