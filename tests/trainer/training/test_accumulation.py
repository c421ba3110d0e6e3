"""What encoding twice leaves in a model: as much as encoding once."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from rhocache_trainer.loss.contrastive import GlobalContrastiveLoss
from rhocache_trainer.training.accumulation import backward_in_parts
from rhocache_trainer.training.learner import evaluating


class Tower(nn.Module):
    """With all that moves when it is called: statistics, and the vectors of a spectral norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
        self.layers = nn.Sequential(layer, nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 5))

    def forward(self, part: Tensor) -> dict[str, Tensor]:
        features = normalize(self.layers(part), dim=1)
        return {"image": features, "text": features.roll(1, 1)}


def train(*, recompute: bool, **options: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
    tower = Tower().double()
    loss = GlobalContrastiveLoss(12, tau=0.2, rho=1.0).double()
    index = torch.arange(12)
    optimizer = torch.optim.SGD(tower.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        backward_in_parts(
            lambda part: tower(part),  # not a module itself
            torch.randn(12, 8, dtype=torch.float64).chunk(3),
            lambda features: loss(features["image"], features["text"], index),
            recompute=recompute,
            model=tower if options.get("named") else None,
        )
        optimizer.step()
    gradients = [each.grad for each in tower.parameters() if each.grad is not None]
    return gradients, tower.state_dict()


@pytest.mark.parametrize("named", [False, True])
def test_buffers_move_once_when_parts_are_encoded_twice(named: bool) -> None:
    once, twice = train(recompute=False), train(recompute=True, named=named)
    torch.testing.assert_close(twice, once, rtol=0, atol=1e-12)


def test_each_module_gets_its_own_mode_back() -> None:
    tower = Tower()
    tower.layers[1].eval()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    with evaluating(tower):
        assert not any(module.training for module in tower.modules())
        tower(torch.randn(4, 8))
    assert [module.training for module in tower.layers] == [True, False, True, True]
    assert all(torch.equal(before[name], value) for name, value in tower.state_dict().items())
