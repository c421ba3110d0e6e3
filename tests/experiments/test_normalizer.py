"""The network's risk, against DRRHO's own of the same batch."""

import torch
from torch.nn.functional import normalize

from experiments.normalizer import NormalizedConfig, NormalizedRisk
from rhocache_trainer import DRRhoClipLoss
from rhocache_trainer.data.dataset import Batch

PAIRS, WIDTH = 16, 8


def test_a_network_that_has_learnt_a_batch_has_the_risk_and_its_gradient() -> None:
    torch.manual_seed(0)
    image, text, *reference = (normalize(torch.randn(PAIRS, WIDTH), dim=1) for _ in range(4))
    target = [image.requires_grad_(), text.requires_grad_()]
    index = torch.arange(PAIRS)
    batch = Batch(
        image=torch.empty(0), tokens=torch.empty(0), index=index,
        reference_image=reference[0], reference_text=reference[1],
    )  # fmt: skip
    config = NormalizedConfig(prototypes=PAIRS, inner_steps=3000, inner_lr=1e-2, tau=0.5)
    found = NormalizedRisk(config)({"image_features": image, "text_features": text}, batch)
    exact = DRRhoClipLoss(PAIRS, tau=0.5, temperature="constant", gamma=1.0, rho=0.0)
    wanted = exact(*target, *reference, index)
    torch.testing.assert_close(found.objective, wanted.objective, atol=2e-3, rtol=0)
    ours, theirs = (torch.autograd.grad(each.loss, target) for each in (found, wanted))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)
