"""AdamW for a model, and Adam for the temperatures of its objective, with their learning rates."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Adam, AdamW, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LambdaLR

from rhocache_trainer import config
from rhocache_trainer.optim.schedules import warmup_cosine


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
