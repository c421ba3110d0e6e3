"""What every risk gives back, and how its gradient is made from weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rhocache_trainer.loss.first_order import with_gradients


@dataclass(frozen=True, slots=True)
class RiskOutput:
    """``value``, ``mass`` and ``weights`` are detached.

    Attributes:
        value: the risk, 0-dim.
        weights: [B], ≥ 0, sum 1: the worst-case distribution, given that the sample is one of this
            batch. Uniform for a batch that has no part in it.
        mass: 0-dim: this batch's share in the worst-case distribution over that of an average
            batch of its size. 1 where the batch is the dataset and nothing is learned.
        loss: 0-dim, the value again: the one to call backward on. Its gradient is the risk's, which
            is mass · Σ weights_i ∇loss_i, and that of a learned τ or μ.
    """

    value: Tensor
    weights: Tensor
    mass: Tensor
    loss: Tensor


def risk_output(
    loss: Tensor, share: Tensor, value: Tensor, *learned: tuple[Tensor, Tensor]
) -> RiskOutput:
    """The output of a risk whose gradient is Σ share_i ∇loss_i, and those of what is learned.

    Args:
        loss: [B] with its graph.
        share: [B] ≥ 0.
        value: 0-dim.
        learned: τ or μ, 0-dim, and the risk's derivative by it.
    """
    dtype = torch.promote_types(loss.dtype, torch.float32)
    value = value.to(dtype)
    mass = share.sum()
    uniform = torch.full_like(share, 1 / len(share))
    weights = torch.where(mass > 0, share / mass, uniform)
    return RiskOutput(
        value=value,
        weights=weights.to(dtype),
        mass=mass.to(dtype),
        loss=with_gradients(value, (loss, share), *learned),
    )
