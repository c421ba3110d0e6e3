"""Several references as one, against sums and minima over each pair of a batch."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize, softmax

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.loss.contrastive import DRRhoClipLoss
from rhocache_trainer.loss.distillation import Distillation, DistillationWeights
from rhocache_trainer.loss.references import References, ReferencesConfig
from rhocache_trainer.loss.temperature import MODES

B, N, D = 7, 20, 5
WIDTHS, SCALES, BIASES = (3, 6), (20.0, 100.0), (-10.0, -4.0)


def unit(width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(B, width, generator=generator, dtype=torch.float64), dim=1)


def references(biases: tuple[float | None, float | None] = BIASES, **config: Any) -> References:
    manifests = [
        Manifest.model_construct(dimension=width, logit_scale=scale, logit_bias=bias)
        for width, scale, bias in zip(WIDTHS, SCALES, biases, strict=True)
    ]
    return References(manifests, ReferencesConfig.model_validate(config))


IMAGES, TEXTS = ([unit(width, seed + width) for width in WIDTHS] for seed in (0, 50))
COSINES = [a @ b.T for a, b in zip(IMAGES, TEXTS, strict=True)]
STAGES = [{"at": 0.2, "weights": [1, 0]}, {"at": 0.6, "weights": [1, 3]}]
COMBINATIONS: dict[str, tuple[dict[str, Any], float, Tensor]] = {
    # settings, share of the steps that are done, and r_ij
    "mean": ({}, 0, (COSINES[0] + COSINES[1]) / 2),
    "weighted": ({"weights": [1, 3]}, 0, 0.25 * COSINES[0] + 0.75 * COSINES[1]),
    "one of two": ({"weights": [0, 2]}, 0, COSINES[1]),
    "own temperatures": (
        {"weights": [1, 3], "temperatures": "own"},
        0,
        (0.25 * 20 * COSINES[0] + 0.75 * 100 * COSINES[1]) / (0.25 * 20 + 0.75 * 100),
    ),
    "temperatures": (
        {"temperatures": [0.1, 0.02]},
        0,
        (10 * COSINES[0] + 50 * COSINES[1]) / 60,
    ),
    "before a schedule": ({"schedule": STAGES}, 0.1, COSINES[0]),
    "within a schedule": ({"schedule": STAGES}, 0.4, (5 * COSINES[0] + 3 * COSINES[1]) / 8),
    "after a schedule": ({"schedule": STAGES}, 0.9, (COSINES[0] + 3 * COSINES[1]) / 4),
    "minimum": ({"combine": "min"}, 0, torch.minimum(*COSINES)),
}


def combined(name: str) -> tuple[References, Tensor]:
    config, done, r = COMBINATIONS[name]
    made = references(**config)
    made.done = done
    return made, r


@pytest.mark.parametrize("name", COMBINATIONS)
def test_similarities(name: str) -> None:
    made, r = combined(name)
    image, text = torch.cat(IMAGES, 1), torch.cat(TEXTS, 1)
    torch.testing.assert_close(made.similarities(image, text), r)
    for part in made.as_one(image):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(B, dtype=torch.float64))


def test_logits_are_the_mean_of_the_references_own() -> None:
    made = references(weights=[1, 3], temperatures="own")
    image, text = torch.cat(IMAGES, 1), torch.cat(TEXTS, 1)
    logits = made.scale * made.similarities(image, text) + (made.bias or 0)
    each = [s * r + b for s, r, b in zip(SCALES, COSINES, BIASES, strict=True)]
    torch.testing.assert_close(logits, 0.25 * each[0] + 0.75 * each[1])
    assert references(biases=(-10.0, None)).bias is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", COMBINATIONS)
@pytest.mark.parametrize("tile", [1, 2 * B])
def test_drrho_is_steered_by_them(
    name: str, mode: Any, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autograd of F, with r_ij as it is written down."""
    monkeypatch.setattr("rhocache_trainer.loss.tiles._CPU_NUMBERS", tile)
    made, r = combined(name)
    rho, index = 0.5, torch.arange(B) * 2
    loss = DRRhoClipLoss(N, tau=0.1, temperature=mode, rho=rho, gamma=1.0).double()
    target = [unit(D, 8).requires_grad_(), unit(D, 9).requires_grad_()]
    reference = [made.as_one(torch.cat(each, 1)) for each in (IMAGES, TEXTS)]
    out = loss(*target, *reference, index, steering=True)

    taus = torch.full((B, 2), 0.1, dtype=torch.float64, requires_grad=True)
    s, expected = target[0] @ target[1].T, torch.zeros((), dtype=torch.float64)
    for side, (a, b) in enumerate(((s, r), (s.T, r.T))):
        d = (a - a.diagonal()[:, None] - b + b.diagonal()[:, None]) / taus[:, side, None]
        d = d.masked_fill(torch.eye(B, dtype=torch.bool), -math.inf)
        expected = expected + (taus[:, side] * (d.logsumexp(1) - math.log(B - 1) + rho)).mean()
    torch.testing.assert_close(out.loss, expected)
    wanted = torch.autograd.grad(expected, [*target, taus])
    got = torch.autograd.grad(out.loss, [*target, *loss.parameters()])
    for one, other in zip(got[:2], wanted[:2], strict=True):
        torch.testing.assert_close(one, other)
    if mode in ("learnable", "separate"):
        of_tau = wanted[2].sum() if mode == "learnable" else wanted[2].sum(0)
        torch.testing.assert_close(got[2], of_tau)
    delta = (s - s.diagonal()[:, None] - r + r.diagonal()[:, None]).detach()
    assert out.steering is not None
    torch.testing.assert_close(out.steering.delta_mean, delta.sum() / (B * (B - 1)))


@pytest.mark.parametrize("name", COMBINATIONS)
def test_distillation_is_the_mean_of_each_references(name: str) -> None:
    """KL divergence from each one's softmax, but for the entropies, which nothing learns from."""
    made, _ = combined(name)
    scales = (10.0, 50.0) if name == "temperatures" else SCALES
    target = [unit(D, 8).float().requires_grad_(), unit(D, 9).float().requires_grad_()]
    reference = [torch.cat(each, 1).float() for each in (IMAGES, TEXTS)]
    scale = torch.tensor(12.0)
    loss = Distillation(DistillationWeights(), made)(target, reference, (scale, scale))  # pyright: ignore
    logits = 12.0 * target[0] @ target[1].T
    expected = torch.zeros(())
    for weight, own, cosines in zip(made.weights, scales, COSINES, strict=True):
        for ours, theirs in ((logits, cosines), (logits.T, cosines.T)):
            told = softmax(own * theirs.float(), dim=1)
            divergence = kl_div(log_softmax(ours, dim=1), told, reduction="batchmean")
            entropy = torch.special.entr(told).sum(1).mean()
            expected = expected + weight * (divergence + entropy) / 2
    torch.testing.assert_close(loss, expected)
    for one, other in zip(
        torch.autograd.grad(loss, target), torch.autograd.grad(expected, target), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_features_are_compared_with_each_references() -> None:
    manifests = [
        Manifest.model_construct(dimension=D, logit_scale=1.0, logit_bias=None) for _ in range(2)
    ]
    made = References(manifests, ReferencesConfig(weights=(1, 3)))
    weights = DistillationWeights(softmax_weight=0, feature_weight=2.0)
    target, (one, other) = (unit(D, 8), unit(D, 9)), [(unit(D, s), unit(D, s + 1)) for s in (1, 3)]
    reference = torch.cat([one[0], other[0]], 1), torch.cat([one[1], other[1]], 1)
    loss = Distillation(weights, made)(target, reference, (torch.tensor(1.0),) * 2)
    far = [
        sum((a - b).square().sum(1).mean() for a, b in zip(target, each, strict=True))
        for each in (one, other)
    ]
    torch.testing.assert_close(loss, (2 * (0.25 * far[0] + 0.75 * far[1])).float())
    odd = References(
        [manifests[0], manifests[1].model_copy(update={"dimension": 3})], ReferencesConfig()
    )
    reference = torch.cat([one[0], unit(3, 1)], 1), torch.cat([one[1], unit(3, 2)], 1)
    with pytest.raises(InvalidInput, match="features of 5 numbers with the reference's 3"):
        Distillation(weights, odd)(target, reference, (torch.tensor(1.0),) * 2)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"weights": [1, -1]}, "greater than or equal to 0"),
        ({"weights": [0, 0]}, "weights are all 0"),
        ({"schedule": [{"at": 0, "weights": [0, 0]}]}, "weights are all 0"),
        ({"temperatures": [0.1, 0]}, "greater than 0"),
        ({"temperatures": "theirs"}, "'own'"),
        ({"schedule": [STAGES[1], STAGES[0]]}, "at: 0.2 after at: 0.6; each must be later"),
        ({"schedule": [{"at": 2, "weights": [1, 1]}]}, "less than or equal to 1"),
        ({"weights": [1, 1], "schedule": STAGES}, "leave out one of the two"),
        ({"combine": "min", "weights": [1, 1]}, "min takes the smallest of the cosines"),
        ({"combine": "min", "temperatures": "own"}, "min takes the smallest of the cosines"),
    ],
)
def test_settings_that_can_not_be(config: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ReferencesConfig.model_validate(config)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"weights": [1, 2, 3]}, "3 weights for 2 caches"),
        ({"temperatures": [0.1]}, "1 temperatures for 2 caches"),
        ({"schedule": [{"at": 0, "weights": [1]}]}, "1 weights for 2 caches"),
    ],
)
def test_settings_for_another_number(config: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=f"references: {told}; give one for each"):
        references(**config)


def test_a_loss_wants_both_embeddings_of_each() -> None:
    with pytest.raises(InvalidInput, match="image features of 2 references, and text features of"):
        DRRhoClipLoss(N).double()(unit(D, 8), unit(D, 9), IMAGES, TEXTS[:1], torch.arange(B))
