"""RHO-Loss selection."""

import pytest
import torch

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.training.selection import rho_loss_selection


def test_the_largest_residuals_come_first():
    loss = torch.tensor([3.0, 1.0, 2.0, 9.0], requires_grad=True)
    reference = torch.tensor([0.5, 1.5, 2.0, 8.5])
    assert rho_loss_selection(loss, reference, 2).tolist() == [0, 3]
    assert sorted(rho_loss_selection(loss, reference, 4).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, -1, 5])
def test_count_out_of_range(count):
    with pytest.raises(InvalidInput, match=f"count={count} of a batch of 4"):
        rho_loss_selection(torch.zeros(4), torch.zeros(4), count)


def test_bad_losses():
    with pytest.raises(InvalidInput, match="reference losses of 3"):
        rho_loss_selection(torch.zeros(4), torch.zeros(3), 1)
