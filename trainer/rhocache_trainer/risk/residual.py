"""δ, how much worse than the reference a model does on each sample."""

import torch
from torch import Tensor

from rhocache_schemas.errors import InvalidInput


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
