"""Weights from exp(δ/τ), and the dataset's mean of it as a moving average over batches."""

import math

import torch
from torch import Tensor, nn

from rhocache_trainer.checks import check_gamma

# Unless told otherwise: about as many batches as u is the mean of are 1/γ. u is one number that
# every batch renews, so that it may go back far more batches than a pair's average, which is
# renewed once an epoch.
GAMMA = 0.1


class MeanExp(nn.Module):
    """u ← (1−γ) u + γ · batch mean of exp(δ/τ); the first batch's mean is the first u.

    One number for the whole dataset, because the mean runs over all samples whichever one asks.
    Held as log u: u itself leaves the range of any float at small temperatures.
    """

    log_u: Tensor  # 0-dim
    seen: Tensor  # 0-dim bool

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("log_u", torch.zeros((), dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    @property
    def gamma(self) -> float:
        """Weight of the new batch, in (0, 1]. Settable at any time."""
        return self._gamma

    @gamma.setter
    def gamma(self, value: float) -> None:
        self._gamma = check_gamma(value)

    def update(self, log_mean: Tensor) -> Tensor:
        """Take in the log of a batch's mean, 0-dim; give log u."""
        if self.gamma < 1:  # log(1−γ) is not a number to add
            old = self.log_u.to(log_mean.dtype) + math.log1p(-self.gamma)
            averaged = torch.logaddexp(old, log_mean + math.log(self.gamma))
            log_mean = torch.where(self.seen, averaged, log_mean)
        self.log_u.copy_(log_mean)
        self.seen.fill_(True)
        return log_mean


def exponential_weights(
    delta: Tensor, tau: float | Tensor, mean_exp: MeanExp | None
) -> tuple[Tensor, Tensor]:
    """log u, 0-dim, and exp(δ_i/τ)/(B u), [B]: what multiplies the samples' gradients.

    Without ``mean_exp`` u is the batch's own mean. With it the weights sum to at most 1/γ.
    """
    exponent = delta / tau
    log_u = torch.logsumexp(exponent, 0) - math.log(len(delta))
    if mean_exp is not None:
        log_u = mean_exp.update(log_u)
    return log_u, torch.exp(exponent - log_u) / len(delta)
