"""Diagnostics of a step: how much negatives weigh, and how far the target is from its reference."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rhocache_trainer.loss.tiles import Side, tiles

QUANTILES = (0.05, 0.5, 0.95)
_SAMPLE = 100_000  # residuals that quantiles are taken of


@dataclass(frozen=True, slots=True)
class Steering:
    """Of the images of this process as anchors, against the texts of the whole batch."""

    effective_sample_size: Tensor  # 0-dim, in (0, 1]: 1 where all negatives weigh the same
    divergence: Tensor  # 0-dim, KL of the weights from uniform, in [0, log(B−1)], mean over anchors
    log_u_mean: Tensor  # 0-dim, of log(ε + u_i) over the anchors of all processes
    delta_mean: Tensor  # 0-dim, of δ_ij = (s_ij − s_ii) − (r_ij − r_ii), j≠i
    delta_quantiles: Tensor  # [3], at QUANTILES; of a sample where there are many
    index: Tensor  # int64 [B], the batch's pairs
    weight: Tensor  # [B], of each as a negative; 1 is what uniform weights would give it


@torch.no_grad()
def explain(
    image: Side,
    text: Side,
    own: Tensor,
    log_sum: Tensor,
    log_inner: Tensor,
    index: Tensor,
    start: int,
    stop: int,
) -> Steering:
    """Look at the anchors ``start`` to ``stop``.

    ``log_sum`` is log Σ_j exp d_ij, ``log_inner`` log(ε + u_i), of all anchors, [B].

    The effective sample size of an anchor's weights p is 1 / Σ p², over their number (Kish 1965).
    """
    negatives = len(own) - 1
    squares, entropy, total = own.new_zeros(3)
    delta = own.new_zeros(0)
    weight = torch.zeros_like(own)
    for first, last, residual, _ in tiles(image, text, start, stop):
        difference = residual - own[first:last, None]
        share = difference / image.tau[first:last, None]
        share = share.sub_(log_sum[first:last, None]).exp_()
        weight += share.sum(0)
        squares += (1 / share.square().sum(1)).sum()
        entropy += torch.special.entr(share).sum()
        rows = torch.arange(last - first, device=own.device)
        difference[rows, first + rows] = 0
        total += difference.sum()
        if not len(delta):
            kept = torch.ones_like(difference, dtype=torch.bool)
            kept[rows, first + rows] = False
            delta = difference[kept]
            delta = delta[:: max(1, len(delta) // _SAMPLE)]
    anchors = stop - start
    return Steering(
        squares / (anchors * negatives),
        math.log(negatives) - entropy / anchors,
        log_inner.mean(),
        total / (anchors * negatives),
        torch.quantile(delta, delta.new_tensor(QUANTILES)),
        index,
        weight * (len(own) / anchors),
    )


def numbers(steering: Steering) -> dict[str, float]:
    """By the names that a run's log has for them."""
    named = {f"delta_p{round(100 * at):02}": at for at in QUANTILES}
    return {
        "effective_sample_size": float(steering.effective_sample_size),
        "divergence": float(steering.divergence),
        "log_u_mean": float(steering.log_u_mean),
        "delta_mean": float(steering.delta_mean),
        **dict(zip(named, steering.delta_quantiles.tolist(), strict=True)),
    }
