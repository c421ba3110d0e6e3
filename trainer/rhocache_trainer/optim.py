"""AdamW for a model, and Adam for the temperatures of its objective, with their learning rates."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Adam, AdamW, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LambdaLR

from rhocache_trainer.training import config


def build_optimizer(settings: config.Optimizer, model: nn.Module) -> AdamW:
    """Two groups: matrices; norms, biases and other vectors without decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    # fused: one pass over memory, which is what counts for a token embedding of millions.
    return AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)


def build_temperature_optimizer(
    settings: config.Optimizer, temperatures: Iterable[nn.Parameter], lr: float
) -> Optimizer | None:
    """None where there is no temperature to learn.

    τ has a learning rate of its own, since Adam's steps are of the size of the rate and τ is a
    single number near 0.05: the weights' rate would move it across its range in a few steps.
    Temperatures of single pairs have sparse gradients: those of other pairs don't move.
    """
    learned = list(temperatures)
    if not learned:
        return None
    kind = SparseAdam if any(each.ndim == 2 for each in learned) else Adam
    return kind(learned, lr=lr, betas=settings.betas)


def build_scheduler(settings: config.Optimizer, optimizer: Optimizer, total_steps: int) -> LambdaLR:
    warmup = round(settings.warmup * total_steps)
    return LambdaLR(optimizer, partial(warmup_cosine, warmup=warmup, total=total_steps))


def cosine_gamma(epoch: int, epochs: int, minimum: float) -> float:
    """γ of the moving averages: 1 in epoch 0, then down a half cosine, ``minimum`` from ``epochs``.

    The model changes fast at first, so old estimates of u are worth little then (FastCLIP, Wei et
    al. 2024, section 4). ``epochs`` = 0 gives ``minimum`` throughout.
    """
    if epoch >= epochs:
        return minimum
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Factor of the learning rate at ``step`` (from 0): linear to 1, then a half cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return (1 + math.cos(math.pi * progress)) / 2
