"""When what losses remember changes, and how exactly it is held."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer import (
    ChiSquareRisk,
    CVaRRisk,
    DRRhoClipLoss,
    GlobalContrastiveLoss,
    KLBallRisk,
    KLRisk,
)
from rhocache_trainer.loss.temperature import MODES

N, BATCH = 12, 5
LOSSES: dict[str, Callable[[], Any]] = {
    **{
        f"drrho_{mode}": lambda mode=mode: DRRhoClipLoss(
            N, tau=0.2, temperature=mode, rho=0.3, gamma=0.5
        )
        for mode in MODES
    },
    "drrho_sharded": lambda: DRRhoClipLoss(N, tau=0.2, rho=0.3, gamma=0.5, sharded=True),
    "global": lambda: GlobalContrastiveLoss(N, tau=0.2, rho=0.3, gamma=0.5),
    "unscaled": lambda: GlobalContrastiveLoss(N, tau=0.2, rho=0.3, gamma=0.5, scaled=False),
    "kl": lambda: KLRisk(0.7, n=N, gamma=0.5),
    "kl_ball": lambda: KLBallRisk(1.7, n=N),
    "kl_ball_learned": lambda: KLBallRisk(1.7, n=N, form="learned", tau=0.6, gamma=0.5),
    "cvar": lambda: CVaRRisk(alpha=0.4, n=N),
    "cvar_dual": lambda: CVaRRisk(alpha=0.4, n=N, form="dual", mu=0.1),
    "chi_square": lambda: ChiSquareRisk(2.3, n=N),
}

every_loss = pytest.mark.parametrize("name", LOSSES)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    """Features that a loss is taken of, and the index of their pairs or samples."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(BATCH, 4 * 6, generator=generator)
    return features, torch.randperm(N, generator=generator)[:BATCH]


def take(loss: Any, features: Tensor, index: Tensor) -> Tensor:
    parts = [normalize(part, dim=1) for part in features.chunk(4, dim=1)]
    if isinstance(loss, DRRhoClipLoss):
        return loss(*parts, index).loss
    if isinstance(loss, GlobalContrastiveLoss):
        return loss(*parts[:2], index).loss
    return loss(features.square().mean(1), features[:, 0].abs(), index).loss


def step(loss: Any, seed: int, how: Callable[..., Tensor] = take) -> dict[str, Tensor]:
    """Value and gradients of a training step on a batch."""
    features, index = batch(seed)
    features.requires_grad_()
    loss.zero_grad()
    value = how(loss, features, index)
    value.backward()
    gradients = {
        name: torch.zeros_like(each) if each.grad is None else each.grad.to_dense()
        for name, each in loss.named_parameters()
    }
    assert features.grad is not None
    return {"value": value.detach(), "features": features.grad, **gradients}


def begun(name: str) -> Any:
    """A loss that has seen a batch, and whose temperature has left its constraint."""
    loss = LOSSES[name]()
    step(loss, 0)
    with torch.no_grad():
        for each in loss.parameters():
            each.fill_(-0.5)
    return loss


def state(loss: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in loss.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].dtype == other[key].dtype
        assert torch.equal(one[key], other[key]), key


def without_grad(loss: Any) -> Tensor:
    with torch.no_grad():
        return take(loss, *batch(1))


def inferred(loss: Any) -> Tensor:
    with torch.inference_mode():
        return take(loss, *batch(1))


@every_loss
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("look", [without_grad, inferred])
def test_a_look_changes_nothing_and_sees_what_a_step_would(name, training, look):
    loss = begun(name).train(training)
    before = state(loss)
    seen = look(loss)
    same(state(loss), before)
    loss.train()
    stepped = step(loss, 1)
    torch.testing.assert_close(seen.clone(), stepped["value"])
    assert any(not torch.equal(before[key], value) for key, value in loss.state_dict().items()) or (
        name == "cvar_dual"  # which remembers no sample
    )


@every_loss
def test_gradients_in_evaluation_mode_are_those_of_training(name):
    loss = begun(name)
    before = state(loss)
    evaluated = step(loss.eval(), 1)
    same(state(loss), before)
    trained = step(loss.train(), 1)
    for key, gradient in evaluated.items():
        torch.testing.assert_close(gradient, trained[key])


@every_loss
def test_a_validation_between_steps_is_not_noticed(name):
    plain, validated = LOSSES[name](), LOSSES[name]()
    for seed in range(4):
        expected = step(plain, seed)
        same(step(validated, seed), expected)
        validated.eval()
        with torch.no_grad():
            take(validated, *batch(seed + 50))
        validated.train()
    same(state(plain), state(validated))


@every_loss
@pytest.mark.parametrize(("reentrant", "early_stop"), [(True, True), (False, True), (False, False)])
def test_a_forward_that_checkpoint_computes_again_counts_once(name, reentrant, early_stop):
    def again(loss: Any, features: Tensor, index: Tensor) -> Tensor:
        return checkpoint(  # pyright: ignore
            lambda x: take(loss, x.sin(), index), features, use_reentrant=reentrant
        )

    def once(loss: Any, features: Tensor, index: Tensor) -> Tensor:
        return take(loss, features.sin(), index)

    plain, checkpointed = LOSSES[name](), LOSSES[name]()
    for seed in (0, 1, 1, 2):
        expected = step(plain, seed, once)
        with set_checkpoint_early_stop(early_stop):
            same(step(checkpointed, seed, again), expected)
        same(state(plain), state(checkpointed))


def test_a_batch_between_a_checkpoint_and_its_backward_is_refused():
    loss = KLRisk(0.7, n=N, gamma=0.5)
    first, second = batch(0), batch(1)
    with set_checkpoint_early_stop(enable=False):
        values = [
            checkpoint(  # pyright: ignore
                lambda x, index: take(loss, x.sin(), index),
                features.requires_grad_(),
                index,
                use_reentrant=False,
            )
            for features, index in (first, second)
        ]
    with pytest.raises(InvalidInput, match="has seen another batch before its backward"):
        sum(values).backward()


CASTS = {
    "bfloat16": lambda module: module.bfloat16(),
    "half": lambda module: module.half(),
    "to": lambda module: module.to("cpu", torch.bfloat16),
    "there_and_back": lambda module: module.to(torch.float16).float(),
}


@every_loss
@pytest.mark.parametrize("cast", CASTS)
def test_a_model_that_is_cast_takes_no_digit_off_the_state(name, cast):
    loss, plain = begun(name), begun(name)
    CASTS[cast](nn.ModuleDict({"model": nn.Linear(2, 2), "loss": loss}))
    same(state(loss), state(plain))
    for seed in (1, 2):
        same(step(loss, seed), step(plain, seed))


@every_loss
def test_double_widens(name):
    loss = LOSSES[name]().double()
    assert {value.dtype for value in loss.state_dict().values()} <= {torch.float64, torch.bool}


@every_loss
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_of_another_dtype_is_widened(name, assign):
    narrow = {
        key: value.bfloat16() if value.is_floating_point() else value
        for key, value in begun(name).state_dict().items()
    }
    loss = LOSSES[name]()
    dtypes = [value.dtype for value in loss.state_dict().values()]
    loss.load_state_dict(narrow, assign=assign)
    assert [value.dtype for value in loss.state_dict().values()] == dtypes
    step(loss, 1)


@every_loss
def test_a_default_dtype_does_not_narrow_it(name):
    torch.set_default_dtype(torch.bfloat16)
    try:
        loss = LOSSES[name]()
    finally:
        torch.set_default_dtype(torch.float32)
    same(state(loss), state(LOSSES[name]()))


@every_loss
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_goes_on_by_itself(name, copied):
    loss = begun(name)
    other = copied(loss)
    before = state(loss)
    stepped = step(other, 1)
    same(state(loss), before)
    same(step(loss, 1), stepped)


@every_loss
def test_second_derivatives_are_refused(name):
    """They would lack what the weights owe to the features."""
    loss = LOSSES[name]()
    features, index = batch(0)
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(take(loss, features, index), features, create_graph=True)
    with pytest.raises(InvalidInput, match="has first derivatives alone"):
        gradient.square().sum().backward()


def test_a_learned_temperature_moves_in_a_model_of_bfloat16():
    loss = DRRhoClipLoss(N, rho=0.3).bfloat16()
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-5)
    for seed in range(3):
        features, index = batch(seed)
        optimizer.zero_grad()
        take(loss, features.bfloat16(), index).backward()
        optimizer.step()
    assert abs(float(loss.temperature.tau.detach()) - 0.07) > 1e-5  # bfloat16's are 5e-4 apart


def test_a_state_without_memory_can_be_given_some():
    name = "drrho_individual"
    with torch.device("meta"):
        loss = LOSSES[name]()
    loss.to_empty(device="cpu").load_state_dict(begun(name).state_dict())
    same(step(loss, 1), step(begun(name), 1))
