"""Objectives against open_clip's own losses, and against their definitions."""

import itertools
import math
from typing import Any

import pytest
import torch
from open_clip.loss import DistillClipLoss, SigLipLoss
from pydantic import TypeAdapter
from torch import Tensor
from torch.nn.functional import normalize

from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.records import Manifest
from rhocache_trainer.config import ObjectiveConfig
from rhocache_trainer.dataset import Batch
from rhocache_trainer.objectives import Features, Objective, build_objective
from rhocache_trainer.objectives.jest import pair_losses, select_jointly

N = 50
SCALE = 30.0  # of the reference


def unit(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator), dim=-1)


@pytest.fixture
def features() -> Features:
    made = {"image_features": unit(8, 6, seed=0), "text_features": unit(8, 6, seed=1)}
    made |= {"logit_scale": torch.tensor(12.0), "logit_bias": torch.tensor(-3.0)}
    return {name: value.requires_grad_() for name, value in made.items()}


def batch(d: int = 6, size: int = 8) -> Batch:
    return Batch(
        image=torch.zeros(size, 3, 2, 2, dtype=torch.uint8),
        tokens=torch.zeros(size, 4, dtype=torch.int64),
        index=torch.arange(size) * 3,
        reference_image=unit(size, d, seed=2),
        reference_text=unit(size, d, seed=3),
    )


def objective(**config: Any) -> Objective:
    manifest = Manifest.model_construct(logit_scale=SCALE, logit_bias=None)
    return build_objective(TypeAdapter(ObjectiveConfig).validate_python(config), N, manifest)


def without_bias(features: Features) -> Features:
    return {name: value for name, value in features.items() if name != "logit_bias"}


def test_siglip_is_open_clips(features: Features) -> None:
    out = objective(name="siglip")(features, batch())
    torch.testing.assert_close(out.loss, SigLipLoss()(**features))
    assert float(out.tau) == pytest.approx(1 / 12)


def test_distillation_is_open_clips(features: Features) -> None:
    given = without_bias(features)
    pairs = batch(5)
    reference = pairs.reference_image, pairs.reference_text
    contrastive, distilled = DistillClipLoss()(*given.values(), *reference, SCALE)
    out = objective(name="distill", softmax_weight=0.7)(given, pairs)
    torch.testing.assert_close(out.loss, contrastive + 0.7 * distilled)
    alone = objective(name="distill", clip_weight=0.0)(given, pairs)
    torch.testing.assert_close(alone.loss, distilled)


def test_feature_mimicry(features: Features) -> None:
    given, pairs = without_bias(features), batch()
    out = objective(name="distill", clip_weight=0, softmax_weight=0, feature_weight=2.0)(
        given, pairs
    )
    distances = [
        (given["image_features"][i] - pairs.reference_image[i]).square().sum()
        + (given["text_features"][i] - pairs.reference_text[i]).square().sum()
        for i in range(8)
    ]
    torch.testing.assert_close(out.loss, 2 * torch.stack(distances).mean())
    with pytest.raises(InvalidInput, match="features of 6 numbers with the reference's 5"):
        objective(name="distill", feature_weight=1.0)(given, batch(5))


def test_drrho_and_distillation_add_up(features: Features) -> None:
    given, pairs = without_bias(features), batch(5)
    both = objective(name="drrho+distill", tau=0.05, softmax_weight=0.3)(given, pairs)
    risk = objective(name="drrho", tau=0.05)(given, pairs)
    distilled = objective(name="distill", clip_weight=0)(
        given | {"logit_scale": torch.tensor(20.0)}, pairs
    )
    torch.testing.assert_close(both.loss, risk.loss + 0.3 * distilled.loss)
    assert float(both.tau) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("version", "shape", "learned", "scaled"),
    [
        ("v0", (), True, False),
        ("v1", (), False, True),
        ("v2", (N, 2), True, True),
        ("v3", (), True, True),
    ],
)
def test_fastclip(
    features: Features, version: str, shape: tuple[int, ...], learned: bool, scaled: bool
) -> None:
    made: Any = objective(name="global", version=version)
    assert made.loss.temperature.tau.shape == shape
    assert bool(list(made.parameters())) == learned
    assert made.loss.scaled == scaled
    out = made(without_bias(features), batch())
    out.loss.backward()
    assert features["image_features"].grad.abs().sum() > 0


def test_a_version_says_what_the_temperature_is() -> None:
    with pytest.raises(ValueError, match="version v3 says what the temperature is"):
        objective(name="global", version="v3", temperature="constant")


def test_pair_losses_sum_to_the_sigmoid_loss(features: Features) -> None:
    losses = pair_losses(*features.values())
    torch.testing.assert_close(losses.sum() / 8, SigLipLoss()(**features))


def test_the_best_of_each_chunk_is_chosen() -> None:
    """Against the score of the whole batch that each candidate would make."""
    scores = torch.randn(9, 9, generator=torch.Generator().manual_seed(4))
    chosen: list[int] = []
    for _ in range(4):

        def worth(candidate: int, chosen: list[int] = chosen) -> float:
            together = [*chosen, candidate]
            return sum(float(scores[i, j]) for i, j in itertools.product(together, together))

        chosen.append(max(set(range(9)) - set(chosen), key=worth))
    assert select_jointly(scores, 4, 4, top_k=True).tolist() == sorted(chosen)
    in_one = select_jointly(scores, 4, 1, top_k=True)
    assert set(in_one.tolist()) == set(scores.diagonal().topk(4).indices.tolist())


def test_a_sample_is_drawn_by_the_scores() -> None:
    torch.manual_seed(0)
    scores = torch.diag(torch.tensor([0.3, 0.6, 0.1]).log())
    drawn = torch.cat([select_jointly(scores, 1, 1, top_k=False) for _ in range(4000)])
    shares = drawn.bincount(minlength=3) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([0.3, 0.6, 0.1]), rtol=0, atol=0.03)
    several = select_jointly(torch.zeros(40, 40), 30, 7, top_k=False)
    assert len(several.unique()) == 30


def test_jest_trains_on_what_it_has_chosen(features: Features) -> None:
    made = objective(name="jest", filter_ratio=0.75, chunks=2, top_k=True, reference_bias=-10)
    assert made.super_batch(2) == 8
    pairs = batch()
    chosen = made.select(lambda _: features, pairs)
    learner = pair_losses(*(value.detach() for value in features.values()))
    reference = pair_losses(pairs.reference_image, pairs.reference_text, SCALE, -10)
    expected = select_jointly(learner - reference, 2, 2, top_k=True)
    assert torch.equal(chosen.index, pairs.index[expected])
    assert torch.equal(chosen.reference_text, pairs.reference_text[expected])
    assert len(chosen.image) == len(chosen.tokens) == 2
    with pytest.raises(InvalidInput, match="trained without a logit bias"):
        objective(name="jest")


def test_gamma_follows_the_epoch() -> None:
    made: Any = objective(name="drrho", gamma=0.2)
    gammas = []
    for epoch in range(5):
        made.start_epoch(epoch, 8)
        gammas.append(made.loss.gamma)
    assert gammas[0] == 1
    assert gammas[2] == pytest.approx(0.6)
    assert gammas[4] == 0.2
    constant: Any = objective(name="drrho", gamma=0.3, gamma_schedule="constant")
    constant.start_epoch(0, 8)
    assert math.isclose(constant.loss.gamma, 0.3)
