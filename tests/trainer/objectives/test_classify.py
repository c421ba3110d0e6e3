"""Classification's loss against autograd of its definition, and what RHO-Loss chooses."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.nn.functional import cross_entropy

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.objectives.classify import Classify, ClassifyConfig, rho_loss_selection
from rhocache_trainer.risk import CVaRRisk

N, BATCH = 20, 6


def batch(index: Tensor) -> Batch:
    """Pairs of three classes: the number modulo 3."""
    return Batch(
        image=torch.zeros(len(index), 3, 2, 2, dtype=torch.uint8),
        tokens=(index % 3)[:, None],
        index=index,
        reference_image=None,
        reference_text=None,
    )


@pytest.fixture
def logits() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, 3, generator=generator).requires_grad_()


@pytest.fixture
def reference() -> Tensor:
    return torch.rand(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_without_a_risk_it_is_the_mean(logits: Tensor, reference: Tensor):
    pairs = batch(torch.arange(BATCH) * 2)
    out = Classify(None, reference, 0.0)({"logits": logits}, pairs)
    torch.testing.assert_close(out.loss, cross_entropy(logits, pairs.tokens[:, 0]))
    assert float(out.objective) == float(out.loss.detach())
    right = [int(logits[n].argmax()) == 2 * n % 3 for n in range(BATCH)]
    assert out.accuracy is not None
    assert float(out.accuracy) == pytest.approx(sum(right) / BATCH)
    assert out.tau is None


@pytest.mark.parametrize("known", [True, False])
def test_a_risk_is_of_the_residuals(logits: Tensor, reference: Tensor, known: bool):
    """At its first batch, which is all that a risk with a memory has seen."""
    pairs = batch(torch.arange(BATCH) * 3)
    made = Classify(CVaRRisk(alpha=0.5, n=N), reference if known else None, 0.0)
    out = made({"logits": logits}, pairs)
    losses = cross_entropy(logits, pairs.tokens[:, 0], reduction="none")
    delta = losses.double() - (reference[pairs.index] if known else 0)
    worst = delta.topk(BATCH // 2)
    torch.testing.assert_close(out.objective.double(), worst.values.mean().detach())
    (gradient,) = torch.autograd.grad(out.loss, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(losses[worst.indices].mean(), logits)
    torch.testing.assert_close(gradient, expected)


def test_a_classifier_trains_on_what_is_most_reducible(logits: Tensor, reference: Tensor):
    config = ClassifyConfig(filter_ratio=0.5)
    assert config.super_batch(3) == 6
    pairs = batch(torch.arange(BATCH) * 3)
    made = Classify(None, reference, 0.5)
    chosen = made.select(lambda _: {"logits": logits}, pairs)
    delta = cross_entropy(logits, pairs.tokens[:, 0], reduction="none") - reference[pairs.index]
    assert sorted(chosen.index.tolist()) == sorted(pairs.index[delta.topk(3).indices].tolist())
    assert Classify(None, reference, 0.0).select(lambda _: {}, pairs) is pairs


def test_the_reference_is_no_part_of_a_checkpoint(reference: Tensor):
    assert not Classify(None, reference, 0.0).state_dict()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"risk": {"name": "mean"}}, "'chi_square', 'cvar',.* 'kl', 'kl_ball'"),
        ({"risk": "cvar"}, "give either k or alpha"),
        ({"risk": {"name": "cvar", "alpha": 0.5, "k": 2}}, "give either k or alpha"),
        ({"risk": {"name": "kl", "tau": 0}}, "greater than 0"),
        ({"risk": {"name": "chi_square", "rho": -1}}, "greater than or equal to 0"),
        ({"risk": {"name": "kl_ball", "rho": 1, "form": "guessed"}}, "'exact' or 'learned'"),
        ({"risk": {"name": "kl", "tau": 1}, "filter_ratio": 0.5}, "leave out one of the two"),
        ({"label": "category"}, "'text' or 'folder'"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], words: str):
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(ClassifyConfig).validate_python(changes)


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
