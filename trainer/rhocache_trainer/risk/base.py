"""What the risks share: the checks of a batch, and of the numbers that a risk is made with."""

import math

from torch import Tensor

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.loss.state import State
from rhocache_trainer.loss.validate import check_index
from rhocache_trainer.risk.output import RiskOutput
from rhocache_trainer.risk.residual import residual


class Risk(State):
    def __init__(self, n: int | None) -> None:
        super().__init__()
        if n is not None and n < 1:
            raise InvalidInput(f"n={n}: a dataset has at least 1 sample")
        self.n = n

    def forward(
        self, loss: Tensor, reference_loss: Tensor | None = None, index: Tensor | None = None
    ) -> RiskOutput:
        """Take a batch of B ≥ 1 samples.

        Args:
            loss: [B], any floating type, with its graph.
            reference_loss: [B], the reference's loss of the same samples; None for 0.
            index: [B] int64, the samples' numbers from 0 to n−1, all different; given if and only
                if the risk was made with ``n``.

        In evaluation mode, or under no_grad, nothing is remembered of it. The output's loss has no
        second derivatives: they raise InvalidInput.

        Raises InvalidInput, before any state has changed.
        """
        delta = residual(loss, reference_loss)
        if (index is None) != (self.n is None):
            raise InvalidInput(
                "index goes with n: this risk was made "
                + ("without n, so that a batch is the dataset" if self.n is None else "with n")
            )
        if index is not None and self.n is not None:
            check_index(index, len(delta), self.n)
            index = index.to(delta.device)
        return self._risk(loss, delta, index)

    def _risk(self, loss: Tensor, delta: Tensor, index: Tensor | None) -> RiskOutput:
        """The risk of a checked batch; ``delta`` is [B], float64 and detached."""
        raise NotImplementedError

    def _size(self, delta: Tensor) -> int:
        """The n of ρ/n and k/n."""
        return len(delta) if self.n is None else self.n


def check_rho(rho: float) -> float:
    if not 0 <= rho < math.inf:
        raise InvalidInput(f"rho={rho} must be at least 0 and finite")
    return rho


def check_form(form: str, known: tuple[str, str]) -> str:
    if form not in known:
        raise InvalidInput(f"form={form!r} is not {known[0]!r} or {known[1]!r}")
    return form
