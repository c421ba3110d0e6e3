"""The per-pair moving average u of a compositional risk, in log space, and its weight γ."""

import math

import torch
from torch import Tensor

from rhocache_trainer.loss.state import State, state_dtype


class LogMovingAverage(State):
    """u_i ← (1−γ) u_i + γ g_i for each of n pairs; the first g_i that a pair brings is its u_i.

    Held as log u, because u = mean exp(d) leaves the range of float32 at small temperatures.
    Which pairs were seen is a mask of its own: no value of u could stand for "never".
    """

    log_u: Tensor  # [n]
    seen: Tensor  # [n] bool

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("log_u", torch.zeros(n, dtype=state_dtype()))
        self.register_buffer("seen", torch.zeros(n, dtype=torch.bool))

    def update(self, index: Tensor, log_g: Tensor, gamma: float) -> Tensor:
        """Take in log g of the pairs ``index`` ([B] int64, all different); give their log u, [B].

        γ must lie in (0, 1].
        """
        if gamma == 1.0:  # log(1−γ) is not a number to add
            log_u = log_g
        else:
            old = self.log_u[index].to(log_g.dtype)
            averaged = torch.logaddexp(math.log1p(-gamma) + old, math.log(gamma) + log_g)
            log_u = torch.where(self.seen[index], averaged, log_g)

        def write() -> None:
            self.log_u[index] = log_u.to(self.log_u.dtype)
            self.seen[index] = True

        return self.keep(index, log_u, write)


def cosine_gamma(epoch: int, epochs: int, minimum: float) -> float:
    """Return γ of an epoch: 1 in epoch 0, then down a half cosine, ``minimum`` from ``epochs`` on.

    The model changes fast at first, so old estimates of u are worth little then (FastCLIP, Wei et
    al. 2024, section 4). With ``epochs`` = 0 it is ``minimum`` throughout.
    """
    if epoch >= epochs:
        return minimum
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * epoch / epochs)) / 2
