"""Values that change over a training run as pure functions of how far it is."""

import math


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
