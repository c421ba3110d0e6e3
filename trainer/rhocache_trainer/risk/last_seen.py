"""Exact worst-case weights over a dataset whose samples come in batches."""

from collections.abc import Callable

import torch
from torch import Tensor

from rhocache_trainer.loss.state import OwnState
from rhocache_trainer.risk.base import RiskOutput, risk_output


class LastSeen(OwnState):
    """The residual of each of n samples, as it was when the sample last came by."""

    least = torch.float64
    delta: Tensor  # [n]
    seen: Tensor  # [n] bool

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("delta", torch.zeros(n, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(n, dtype=torch.bool))

    def update(self, delta: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a batch's δ, [B]; give those of all m samples seen so far, and its places there.

        ``index`` is [B] int64. Returns float64 [m] and int64 [B].
        """

        def write() -> None:
            self.delta[index] = delta
            self.seen[index] = True

        self.keep(index, delta, write)
        memory, seen = self.delta, self.seen
        if not self.learns:
            memory, seen = memory.index_copy(0, index, delta), seen.index_fill(0, index, value=True)
        place = seen.cumsum(0)[index] - 1
        return memory[seen], place


def exact_risk(
    loss: Tensor,
    delta: Tensor,
    index: Tensor | None,
    memory: LastSeen | None,
    solve: Callable[[Tensor], Tensor],
) -> RiskOutput:
    """The risk whose worst-case distribution over m samples is ``solve`` of their δ, [m] → [m]."""
    if memory is None or index is None:
        weights = solve(delta)
        return risk_output(loss, weights, (weights * delta).sum())
    everyone, place = memory.update(delta, index)
    weights = solve(everyone)
    share = weights[place] * (len(everyone) / len(delta))
    return risk_output(loss, share, (weights * everyone).sum())
