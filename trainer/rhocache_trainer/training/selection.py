"""RHO-Loss selection: the baseline that trains on the most reducible samples of a large batch."""

from torch import Tensor

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.risk.base import residual


def rho_loss_selection(loss: Tensor, reference_loss: Tensor, count: int) -> Tensor:
    """The places of the ``count`` largest residuals loss − reference loss, largest first.

    Mindermann et al. 2022, "Prioritized Training on Points that are Learnable, Worth Learning, and
    Not Yet Learnt", eq. (3), where the reference was trained on held-out data. Train on the mean
    loss of the places given.

    Args:
        loss, reference_loss: [B], any floating type; neither needs a graph.
        count: from 1 to B.

    Returns: [count] int64. Raises InvalidInput.
    """
    delta = residual(loss, reference_loss)
    if not 1 <= count <= len(delta):
        raise InvalidInput(f"count={count} of a batch of {len(delta)} samples")
    return delta.topk(count).indices
