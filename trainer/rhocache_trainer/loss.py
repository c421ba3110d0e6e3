"""The contrastive risks: DRRHO with a reference, and the global contrastive loss without one.

Both are  F = mean_i τ log(ε + mean_{j≠i} exp d1_ij) + mean_i τ log(ε + mean_{j≠i} exp d2_ij) + 2τρ
with, for target cosines s and reference cosines r (first index image, second index text),

    d1_ij = [(s_ij − s_ii) − (r_ij − r_ii)] / τ      image i against texts j
    d2_ij = [(s_ji − s_ii) − (r_ji − r_ii)] / τ      text i against images j

The inner means run over the whole dataset, so they are estimated by moving averages u (one a pair
and side). The global contrastive loss is the same with r = 0. See Yuan et al. 2022 (SogCLR), Wei
et al. 2024 (FastCLIP) and Wei et al. 2025 (DRRHO risk minimisation).
"""

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.checks import check_features, check_index
from rhocache_trainer.moving_average import LogMovingAverage
from rhocache_trainer.temperature import MINIMUM, Temperature


@dataclass(frozen=True, slots=True)
class LossOutput:
    """All 0-dim tensors.

    ``loss`` is the one to call backward on: its gradient is the objective's, its value means
    nothing. ``objective`` is the estimate of F from the moving averages of this batch's pairs; it
    is F itself for a batch of all pairs and γ = 1. ``tau`` is the temperature used.
    """

    loss: Tensor
    objective: Tensor
    tau: Tensor


class _ContrastiveRisk(nn.Module):
    def __init__(
        self,
        n: int,
        tau: float = 0.07,
        temperature: Literal["constant", "learnable"] = "learnable",
        rho: float | None = None,
        gamma: float = 0.8,
        epsilon: float = 1e-14,
    ) -> None:
        super().__init__()
        if n < 2:
            raise InvalidInput(f"n={n}: a contrastive loss needs at least 2 pairs")
        if temperature not in ("constant", "learnable"):
            raise InvalidInput(f"temperature={temperature!r} is not 'constant' or 'learnable'")
        if not MINIMUM <= tau < math.inf:
            raise InvalidInput(f"tau={tau} must be at least {MINIMUM} and finite")
        if not 0 <= epsilon < math.inf:
            raise InvalidInput(f"epsilon={epsilon} must be at least 0 and finite")
        self.n = n
        self.rho = _default_rho(n) if rho is None else rho
        _check_rho(self.rho, n, learnable=temperature == "learnable")
        self.gamma = gamma
        self.log_epsilon = math.log(epsilon) if epsilon else -math.inf
        self.temperature = Temperature(tau, learnable=temperature == "learnable")
        self.image_average = LogMovingAverage(n)
        self.text_average = LogMovingAverage(n)

    @property
    def gamma(self) -> float:
        """Weight of the new estimate in the moving averages, in (0, 1]. Settable at any time."""
        return self._gamma

    @gamma.setter
    def gamma(self, value: float) -> None:
        if not 0 < value <= 1:
            raise InvalidInput(f"gamma={value} must lie in (0, 1]")
        self._gamma = float(value)

    def _risk(self, image: Tensor, text: Tensor, reference: Tensor | None, index: Tensor):
        """The risk of checked features; ``reference`` is the matrix r, [B, B], or None for 0."""
        with torch.autocast(image.device.type, enabled=False):
            dtype = torch.promote_types(image.dtype, torch.float32)
            similarity = image.to(dtype) @ text.to(dtype).T
            tau = self.temperature()
            fixed_tau = tau.detach().to(dtype)
            residual = similarity.detach()
            if reference is not None:
                residual = residual - reference
            image_side = self._side(residual, fixed_tau, self.image_average, index)
            text_side = self._side(residual.T, fixed_tau, self.text_average, index)

            # Σ_ij w_ij (s_ij − s_ii) over both sides is one weighted sum of the similarities.
            weights = image_side.weights + text_side.weights.T
            own = image_side.weights.sum(1) + text_side.weights.sum(1)
            loss = ((similarity * weights).sum() - similarity.diagonal() @ own) / len(image)
            loss = loss + tau * (image_side.tau_gradient + text_side.tau_gradient)
            objective = fixed_tau * (image_side.log_risk + text_side.log_risk + 2 * self.rho)
        return LossOutput(loss, objective, tau.detach().clone())

    @torch.no_grad()
    def _side(
        self, residual: Tensor, tau: Tensor, average: LogMovingAverage, index: Tensor
    ) -> "_Side":
        """One side's part, its anchors along the rows of ``residual`` ([B, B])."""
        log_negatives = math.log(len(residual) - 1)
        d = (residual - residual.diagonal()[:, None]) / tau
        d.fill_diagonal_(-math.inf)
        log_g = torch.logsumexp(d, dim=1) - log_negatives
        log_u = average.update(index, log_g, self.gamma)
        log_inner = torch.logaddexp(log_u, log_u.new_tensor(self.log_epsilon))
        # At most 1/γ, whatever d is: u holds at least γ times this batch's own mean.
        weights = torch.exp(d - log_inner[:, None] - log_negatives)
        d.fill_diagonal_(0)
        tau_gradient = (log_inner + self.rho - (weights * d).sum(1)).mean()
        return _Side(weights, tau_gradient, log_inner.mean())


@dataclass(frozen=True, slots=True)
class _Side:
    weights: Tensor  # [B, B], zero on the diagonal; 1/(B−1) is in them
    tau_gradient: Tensor
    log_risk: Tensor  # mean_i log(ε + u_i)


class GlobalContrastiveLoss(_ContrastiveRisk):
    """The global contrastive loss over n pairs, with or without a learned temperature.

    Args:
        n: pairs in the dataset; ``index`` runs from 0 to n−1.
        tau: temperature to begin with, at least 0.01.
        temperature: ``constant``, or ``learnable`` (give ``parameters()`` a group of their own in
            the optimizer: without weight decay, and with a smaller learning rate).
        rho: ρ of the constraint KL ≤ ρ that a learned temperature answers to. Where τ settles, the
            weights of the negatives have a KL divergence of ρ from uniform; that divergence is at
            most log(n−1), so a larger ρ drives τ to its floor, which is warned of. The default is
            half of log(n−1). With a constant temperature it only adds 2τρ to the objective.
        gamma: weight of the new estimate in the moving averages, in (0, 1]; an attribute that may
            be set at any time, see ``schedule.cosine_gamma``.
        epsilon: ε in the logarithm.

    Raises InvalidInput for values out of range.
    """

    def forward(self, image: Tensor, text: Tensor, index: Tensor) -> LossOutput:
        """Take a batch of B ≥ 2 pairs.

        Args:
            image, text: the target's features, unit vectors [B, d], any floating type; the loss is
                computed in float32 at least, under autocast too.
            index: [B] int64, the pairs' numbers in the dataset, all different.

        Raises InvalidInput, before any state has changed.
        """
        check_features("image", "text", image, text)
        check_index(index, len(image), self.n)
        return self._risk(image, text, None, index.to(image.device))


class DRRhoClipLoss(_ContrastiveRisk):
    """The DRRHO contrastive risk over n pairs, steered by a reference's embeddings.

    The arguments are those of GlobalContrastiveLoss, with n = len(cache).
    """

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        reference_image: Tensor,
        reference_text: Tensor,
        index: Tensor,
    ) -> LossOutput:
        """Take a batch of B ≥ 2 pairs.

        Args:
            image, text: the target's features, unit vectors [B, d], any floating type; the loss is
                computed in float32 at least, under autocast too.
            reference_image, reference_text: the reference's embeddings of the same pairs, unit
                vectors [B, d'].
            index: [B] int64, the pairs' numbers in the cache, all different.

        Raises InvalidInput, before any state has changed.
        """
        check_features("image", "text", image, text)
        check_features("reference image", "reference text", reference_image, reference_text)
        if len(reference_image) != len(image):
            raise InvalidInput(
                f"{len(image)} pairs, but reference features of {len(reference_image)}"
            )
        check_index(index, len(image), self.n)
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            dtype = torch.promote_types(image.dtype, torch.float32)
            reference = reference_image.to(dtype) @ reference_text.to(dtype).T
        return self._risk(image, text, reference, index.to(image.device))


def _default_rho(n: int) -> float:
    return 0.5 * math.log(n - 1) if n > 2 else 0.0


def _check_rho(rho: float, n: int, *, learnable: bool) -> None:
    if not 0 <= rho < math.inf:
        raise InvalidInput(f"rho={rho} must be at least 0 and finite")
    largest = math.log(n - 1)
    if learnable and rho > 0 and rho >= largest:
        warnings.warn(
            f"rho={rho:g} is not below log(n−1)={largest:.3g} for n={n} pairs, so the learnable "
            f"temperature will fall to its floor of {MINIMUM}; use rho ≤ {0.75 * largest:.2g}, "
            "or a constant temperature",
            stacklevel=4,
        )
