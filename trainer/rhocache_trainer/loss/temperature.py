"""The temperatures τ of a contrastive risk: constant, or learned with the model."""

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from rhocache_trainer.loss.state import State, state_dtype

MINIMUM = 0.01
MAXIMUM = torch.finfo(torch.float32).max

TemperatureMode = Literal["constant", "learnable", "separate", "individual"]
MODES = get_args(TemperatureMode)


class Temperature(State):
    """τ ≥ 0.01 of the anchors of a batch.

    ``constant``: one number. ``learnable``: one parameter. ``separate``: one parameter for images
    as anchors (τ1) and one for texts (τ2). ``individual``: both for each of n pairs; their
    gradient is sparse, so that an optimizer for sparse gradients leaves the pairs alone that the
    batch does not have.

    The parameter is τ itself, projected onto the constraint before it is used, and not, say,
    exp(θ) + 0.01: the gradient of the objective is then the parameter's gradient as it stands, and
    a τ that reached the floor leaves it again with the first gradient that points upwards, where a
    squashing function's slope would have vanished.
    """

    def __init__(self, initial: float, mode: TemperatureMode, n: int = 1) -> None:
        super().__init__()
        self.mode = mode
        shape = {"separate": (2,), "individual": (n, 2)}.get(mode, ())
        value = torch.full(shape, float(initial), dtype=state_dtype())
        if mode == "constant":
            self.register_buffer("tau", value)
        else:
            self.tau = nn.Parameter(value)

    def forward(self, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """τ1 and τ2: 0-dim each, or where they are individual [B], of the pairs ``index``."""
        if self.mode == "individual" and index is not None:
            if self.learns:
                with torch.no_grad():  # only those that can have moved
                    self.tau[index] = self.tau[index].clamp(min=MINIMUM)
            image, text = _projected(embedding(index, self.tau, sparse=True)).unbind(1)
            return image, text
        if self.learns:
            with torch.no_grad():
                self.tau.clamp_(min=MINIMUM)
        tau = _projected(self.tau)
        if self.mode == "separate":
            image, text = tau.unbind()
            return image, text
        return tau, tau

    def named_parameters(
        self,
        prefix: str = "",
        recurse: bool = True,
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """As of any module; but not, module by module, the temperatures of single pairs.

        So looks DistributedDataParallel for what to reduce. It would fail at a sparse gradient that
        is not an nn.Embedding's, or for lack of NCCL's support for them, and has nothing to do:
        every rank has the whole gradient. The optimizer and state_dict look at all modules at once.
        """
        if self.mode == "individual" and not recurse:
            return iter(())
        return super().named_parameters(prefix, recurse, remove_duplicate)


def _projected(tau: Tensor) -> Tensor:
    """τ on its constraint, where it could not be put there, with the gradient as it stands."""
    return torch.where(tau < MINIMUM, MINIMUM + (tau - tau.detach()), tau)
