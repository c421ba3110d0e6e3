"""AdamW for a model, and Adam for what its objective learns, with their learning rates."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any

from pydantic import Field
from torch import nn
from torch.optim import Adam, AdamW, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LambdaLR

from rhocache_schemas.documents import Strict
from rhocache_trainer.settings import Share


class OptimizerConfig(Strict):
    """AdamW with linear warmup and a cosine down to zero."""

    lr: Annotated[float, Field(gt=0, description="largest learning rate")] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[Share, Share] = (0.9, 0.98)
    eps: Annotated[float, Field(gt=0)] = 1e-6
    warmup: Annotated[Share, Field(description="share of all steps")] = 0.05
    clip_grad_norm: Annotated[float | None, Field(gt=0)] = 1.0


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> AdamW:
    """Two groups: matrices; norms, biases and other vectors without decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    # fused: one pass over memory, which is what counts for a token embedding of millions.
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def build_objective_optimizer(
    config: OptimizerConfig, learned: Iterable[nn.Parameter], lr: float
) -> Optimizer | None:
    """Return None where the objective has nothing to learn: no τ, no μ.

    They have a learning rate of their own, since Adam's steps are of the size of the rate and τ is
    a single number near 0.05: the weights' rate would move it across its range in a few steps.
    Temperatures of single pairs have sparse gradients: those of other pairs don't move.
    """
    parameters = list(learned)
    if not parameters:
        return None
    kind = SparseAdam if any(each.ndim == 2 for each in parameters) else Adam
    return kind(parameters, lr=lr, betas=config.betas)


def build_scheduler(config: OptimizerConfig, optimizer: Optimizer, total_steps: int) -> LambdaLR:
    warmup = round(config.warmup * total_steps)
    return LambdaLR(optimizer, partial(warmup_cosine, warmup=warmup, total=total_steps))


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Return the learning rate's factor at ``step`` (from 0): linear to 1, a half cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return (1 + math.cos(math.pi * progress)) / 2
