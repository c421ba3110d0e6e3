"""What the risks share: the residual, the checks of a batch, and the output with its gradient."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.loss.first_order import with_gradients
from rhocache_trainer.loss.state import State
from rhocache_trainer.loss.validate import check_index
from rhocache_trainer.settings import Named


class RiskConfig(Named):
    """The settings of a risk, and how it is made.

    A file of this folder has a subclass with a field ``name``, beside its ``Risk``.
    """

    def build(self, n: int) -> "Risk":
        """Make the risk over n samples that come in batches, with ``index``."""
        raise NotImplementedError


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


def residual(loss: Tensor, reference_loss: Tensor | None) -> Tensor:
    """δ = loss − reference loss, or the loss itself without a reference: detached, [B], float64.

    float64 whatever the losses are: B numbers cost nothing, and the solvers square and exponentiate
    them. Raises InvalidInput for anything but finite floating point [B] with B ≥ 1.
    """
    _check("loss", loss)
    delta = loss.detach().double()
    if reference_loss is None:
        return delta
    _check("reference_loss", reference_loss)
    if reference_loss.shape != loss.shape:
        raise InvalidInput(f"{len(loss)} losses, but reference losses of {len(reference_loss)}")
    return delta - reference_loss.detach().to(delta)


def _check(name: str, values: Tensor) -> None:
    if values.ndim != 1 or not len(values) or not values.is_floating_point():
        raise InvalidInput(
            f"{name} must be floating point [B], one for each sample, not {values.dtype} "
            f"{list(values.shape)}; has it been averaged already (reduction='none' gives [B])?"
        )
    finite = torch.isfinite(values.detach())
    if not finite.all():
        row = int((~finite).int().argmax())
        raise InvalidInput(f"{name} holds {float(values[row])} in row {row}")
