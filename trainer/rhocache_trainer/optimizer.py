"""AdamW and its learning rates."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from rhocache_trainer.config import Optimizer
from rhocache_trainer.schedule import warmup_cosine


def build_optimizer(
    config: Optimizer, model: nn.Module, temperature: Iterable[nn.Parameter], tau_lr: float
) -> AdamW:
    """Three groups: matrices; norms, biases and other vectors without decay; the temperature.

    τ has a learning rate of its own, since Adam's steps are of the size of the rate and τ is a
    single number near 0.05: the weights' rate would move it across its range in a few steps.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if learned := list(temperature):
        groups.append({"params": learned, "weight_decay": 0.0, "lr": tau_lr})
    # fused: one pass over memory, which is what counts for a token embedding of millions.
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def build_scheduler(config: Optimizer, optimizer: AdamW, total_steps: int) -> LambdaLR:
    warmup = round(config.warmup * total_steps)
    return LambdaLR(optimizer, partial(warmup_cosine, warmup=warmup, total=total_steps))
