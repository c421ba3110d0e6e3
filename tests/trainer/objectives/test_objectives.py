"""Objectives against open_clip's own losses, and against their definitions."""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import torch
from open_clip.loss import DistillClipLoss, SigLipLoss
from pydantic import TypeAdapter
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.loss.references import References, ReferencesConfig
from rhocache_trainer.objectives import Features, Objective, ObjectiveConfig
from rhocache_trainer.objectives.base import reference_of
from rhocache_trainer.objectives.jest import pair_losses, select_jointly
from rhocache_trainer.settings import ChosenFrom

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


ANY: TypeAdapter[ObjectiveConfig] = TypeAdapter(
    Annotated[ObjectiveConfig, ChosenFrom("rhocache_trainer.objectives")]
)


@dataclass
class Pairs:
    """What an objective asks of the pairs that it is made for."""

    n: int
    references: References


def objective(n: int = N, scale: float = SCALE, dimension: int = 6, **config: Any) -> Objective:
    manifest = Manifest.model_construct(logit_scale=scale, logit_bias=None, dimension=dimension)
    return ANY.validate_python(config).build(Pairs(n, References([manifest])))  # pyright: ignore


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


@pytest.mark.parametrize("tau", [0.07, 0.01])
@pytest.mark.parametrize("weights", [{}, {"softmax_weight": 0.3, "feature_weight": 2.0}])
def test_drrho_and_distillation_are_combined_as_published(tau: float, weights: Any) -> None:
    """Autograd of F + τ D, pair by pair (Wei et al. 2025 multiply by τ, with a weight of 1)."""
    size, rho = 8, 0.5
    pairs, taught = batch(size=size), unit(size, 6, seed=5)
    given = [
        normalize(taught + unit(size, 6, seed=seed), dim=1).requires_grad_() for seed in (6, 7)
    ]
    features = dict(zip(("image_features", "text_features"), given, strict=True))
    made = objective(name="drrho+distill", tau=tau, rho=rho, **weights)
    got = made(features | {"logit_scale": torch.tensor(1.0)}, pairs)
    gradients = torch.autograd.grad(got.loss, given)

    s, r = given[0] @ given[1].T, pairs.reference_image @ pairs.reference_text.T
    risk, distilled, mimicry = (torch.zeros(()) for _ in range(3))
    for side, (a, b) in enumerate(((s, r), (s.T, r.T))):
        reference = (pairs.reference_image, pairs.reference_text)[side]
        for i in range(size):
            others = [j for j in range(size) if j != i]
            d = (a[i, others] - a[i, i] - b[i, others] + b[i, i]) / tau
            risk = risk + tau * (d.logsumexp(0) - math.log(size - 1) + rho) / size
            cross_entropy = (
                torch.softmax(SCALE * b[i], 0) * torch.log_softmax(a[i] / tau, 0)
            ).sum()
            distilled = distilled - cross_entropy / 2 / size
            mimicry = mimicry + (given[side][i] - reference[i]).square().sum() / size
    softmax, feature = weights.get("softmax_weight", 1.0), weights.get("feature_weight", 0.0)
    expected = risk + tau * (softmax * distilled + feature * mimicry)
    torch.testing.assert_close(got.loss, expected)
    assert float(got.objective) == float(got.loss.detach())
    assert float(got.tau) == pytest.approx(tau)
    for one, other in zip(gradients, torch.autograd.grad(expected, given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tau", [0.07, 0.01])
def test_distillation_does_not_drown_the_risk_by_default(tau: float) -> None:
    """Without τ as a factor its gradient is 6 and 40 times as long here."""
    base, size = unit(128, 128, seed=0), 128
    given = [
        normalize(base + 2 * unit(size, 128, seed=seed), dim=1).requires_grad_() for seed in (1, 2)
    ]
    reference = [normalize(base + 0.5 * unit(size, 128, seed=seed), dim=1) for seed in (3, 4)]
    pairs = Batch(given[0], given[1], torch.arange(size), *reference)
    features = dict(zip(("image_features", "text_features"), given, strict=True))

    def gradient(**changes: Any) -> Tensor:
        made = objective(size, 100.0, 128, tau=tau, **changes)
        loss = made(features | {"logit_scale": torch.tensor(1.0)}, pairs).loss
        return torch.cat(torch.autograd.grad(loss, given))

    risk = gradient(name="drrho")
    both = gradient(name="drrho+distill")
    assert 0.2 < float((both - risk).norm() / risk.norm()) < 1
    assert float((both * risk).sum() / both.norm() / risk.norm()) > 0.9


@pytest.mark.parametrize("temperature", ["separate", "individual"])
def test_each_anchor_is_distilled_at_its_own_temperature(
    features: Features, temperature: str
) -> None:
    given, pairs = without_bias(features), batch(5)
    settings = {"temperature": temperature, "rho": 0.5}
    both: Any = objective(name="drrho+distill", softmax_weight=0.7, **settings)
    risk: Any = objective(name="drrho", **settings)
    taus = torch.tensor([0.05, 0.2])
    if temperature == "individual":
        taus = taus * (1 + torch.rand(N, 2, generator=torch.Generator().manual_seed(0)))
    for made in (both, risk):
        with torch.no_grad():
            made.loss.temperature.tau.copy_(taus)
    own = taus[pairs.index] if temperature == "individual" else taus.expand(8, 2)
    expected = risk(given, pairs).loss
    s = given["image_features"] @ given["text_features"].T
    r = pairs.reference_image @ pairs.reference_text.T
    for side, (a, b) in enumerate(((s, r), (s.T, r.T))):
        for i in range(8):
            log_p = torch.log_softmax(a[i] / own[i, side], 0)
            distilled = -(torch.softmax(SCALE * b[i], 0) * log_p).sum()
            expected = expected + 0.7 * own[i, side] * distilled / 16
    torch.testing.assert_close(both(given, pairs).loss, expected)


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


@pytest.mark.parametrize("top_k", [False, True])
def test_no_pair_is_chosen_twice_however_large_the_scores(top_k: bool) -> None:
    scores = 1e10 * torch.randn(12, 12, generator=torch.Generator().manual_seed(1))
    assert len(select_jointly(scores, 12, 6, top_k=top_k)) == 12


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
    assert ANY.validate_python({"name": "jest", "filter_ratio": 0.75}).super_batch(2) == 8
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


def test_jest_scores_by_several_references_together(features: Features) -> None:
    manifests = [
        Manifest.model_construct(logit_scale=scale, logit_bias=-3.0, dimension=3)
        for scale in (10.0, 40.0)
    ]
    for config in (ReferencesConfig(temperatures="own"), ReferencesConfig(combine="min")):
        references = References(manifests, config)
        settings = ANY.validate_python({"name": "jest", "filter_ratio": 0.5, "top_k": True})
        made = settings.build(Pairs(N, references))  # pyright: ignore
        pairs = batch()
        image, text = (each.split(3, dim=1) for each in reference_of(pairs))
        cosines = [a @ b.T for a, b in zip(image, text, strict=True)]
        r = (10 * cosines[0] + 40 * cosines[1]) / 50
        r = torch.minimum(*cosines) if config.combine == "min" else r
        signs = 2 * torch.eye(8) - 1
        told = -logsigmoid(signs * (25.0 * r - 3.0))
        learner = pair_losses(*(value.detach() for value in features.values()))
        expected = select_jointly(learner - told, 4, 16, top_k=True)
        chosen = made.select(lambda _: features, pairs)
        assert torch.equal(chosen.index, pairs.index[expected])


def test_jest_and_distillation_are_added(features: Features) -> None:
    settings = {"filter_ratio": 0.5, "reference_bias": -10}
    pairs = batch(5)
    out = objective(name="jest+distill", softmax_weight=0.7, **settings)(features, pairs)
    reference = pairs.reference_image, pairs.reference_text
    _, distilled = DistillClipLoss()(*without_bias(features).values(), *reference, SCALE)
    torch.testing.assert_close(out.loss, SigLipLoss()(**features) + 0.7 * distilled)
    made = [objective(name=name, top_k=True, **settings) for name in ("jest", "jest+distill")]
    alone, both = (each.select(lambda _: features, batch()).index for each in made)
    assert torch.equal(alone, both)


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
