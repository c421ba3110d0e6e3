"""What holds for every risk: gradients, shifts, mini-batches, extremes, bad input, resume."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer import ChiSquareRisk, CVaRRisk, KLBallRisk, KLRisk
from rhocache_trainer.risk.base import Risk

RISKS: dict[str, Callable[..., Risk]] = {
    "kl": lambda n=None: KLRisk(0.7, n=n, gamma=0.5),
    "kl_ball": lambda n=None: KLBallRisk(1.7, n=n),
    "kl_ball_learned": lambda n=None: KLBallRisk(
        1.7, n=n, form="learned", tau=0.6, gamma=0.5
    ).double(),
    "cvar": lambda n=None: CVaRRisk(alpha=0.37, n=n),
    "cvar_dual": lambda n=None: CVaRRisk(alpha=0.37, n=n, form="dual", mu=0.1).double(),
    "chi_square": lambda n=None: ChiSquareRisk(2.3, n=n),
}
EXACT = ["kl", "kl_ball", "cvar", "chi_square"]
REMEMBERING = ["kl_ball", "cvar", "chi_square"]

every_risk = pytest.mark.parametrize("name", RISKS)


def sample(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator, dtype=torch.float64).to(dtype)


@every_risk
def test_gradients_are_the_values(name):
    """Finite differences of the risk, and of its derivative in τ or μ where they are learned."""
    risk = RISKS[name]()
    loss, reference = sample(9).requires_grad_(), sample(9, 1)
    names = [name for name, _ in risk.named_parameters()]

    def value(loss: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(risk, state, (loss, reference)).loss

    assert torch.autograd.gradcheck(value, (loss, *risk.parameters()), atol=1e-6)


@every_risk
def test_gradient_is_that_of_weighted_training(name):
    """The envelope theorem, through a model: ∇risk = mass · Σ weights_i ∇loss_i."""
    inputs, targets = sample(36, 4).reshape(9, 4), sample(9)
    w = sample(4, 2).requires_grad_()

    def losses() -> Tensor:
        return (inputs @ w - targets) ** 2

    out = RISKS[name]()(losses(), sample(9, 3).abs())
    (gradient,) = torch.autograd.grad(out.loss, w)
    weighted = out.mass * (out.weights * losses()).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(weighted, w)[0])
    assert (out.weights >= 0).all()
    assert float(out.weights.sum()) == pytest.approx(1)
    if name in EXACT:
        assert float(out.mass) == pytest.approx(1)
    assert not out.value.requires_grad
    assert not out.weights.requires_grad
    assert torch.equal(out.loss.detach(), out.value)


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-1e3, 1e3), n=st.integers(1, 20), seed=st.integers(0, 100))
def test_a_shift_of_the_residuals_shifts_the_risk_alone(name, shift, n, seed):
    delta = sample(n, seed)
    plain, shifted = RISKS[name]()(delta), RISKS[name]()(delta + shift)
    torch.testing.assert_close(shifted.value, plain.value + shift, rtol=0, atol=1e-9)
    torch.testing.assert_close(shifted.weights, plain.weights, rtol=0, atol=1e-9)


BALLS = {"kl_ball": KLBallRisk, "chi_square": ChiSquareRisk}


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("radius", [1e-3, 0.4, 1.0])
def test_weights_heed_neither_unit_nor_origin(ball, radius):
    """Of residuals that stay exact: whole numbers, times powers of two, on a distant integer."""
    delta = torch.tensor([7.0, -3.0, 0.0, 12.0, 5.0, -8.0], dtype=torch.float64)
    weights = BALLS[ball](6 * radius)(delta).weights
    assert float(weights.min()) < float(weights.max()) < 1
    for other in (delta * 2.0**-600, delta * 2.0**600, delta / 20, delta + 2.0**44):
        found = BALLS[ball](6 * radius)(other).weights
        torch.testing.assert_close(found, weights, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 20), seed=st.integers(0, 100), scale=st.floats(1e-3, 1e3))
def test_it_lies_between_mean_and_maximum_and_heeds_no_order(name, n, seed, scale):
    delta = sample(n, seed) * scale
    out = RISKS[name]()(delta)
    assert float(delta.mean()) - 1e-9 <= float(out.value) <= float(delta.max()) + 1e-9
    order = torch.randperm(n)
    torch.testing.assert_close(RISKS[name]()(delta[order]).weights, out.weights[order])


@pytest.mark.parametrize("name", REMEMBERING)
def test_batches_of_a_known_dataset_average_to_the_full_gradient(name):
    n, batch = 30, 6
    delta = sample(n)
    whole = delta.clone().requires_grad_()
    full = RISKS[name](n)(whole, index=torch.arange(n))
    full.loss.backward()
    torch.testing.assert_close(full.value, RISKS[name]()(delta).value)

    risk = RISKS[name](n)
    for epoch in range(2):
        total = torch.zeros(n, dtype=torch.float64)
        for index in torch.randperm(n).split(batch):
            loss = delta[index].requires_grad_()
            out = risk(loss, index=index)
            out.loss.backward()
            total[index] += loss.grad * batch / n
            if epoch:
                torch.testing.assert_close(out.value, full.value)
    torch.testing.assert_close(total, whole.grad)


@pytest.mark.parametrize("name", REMEMBERING)
def test_samples_not_seen_yet_are_left_out(name):
    risk = RISKS[name](100)
    alone = risk(sample(8), index=torch.arange(40, 48))
    assert float(alone.mass) == pytest.approx(1)
    radius = 8 / 100  # ρ/n with the dataset's n
    expected = {
        "kl_ball": KLBallRisk(1.7 * radius),
        "cvar": CVaRRisk(alpha=0.37),
        "chi_square": ChiSquareRisk(2.3 * radius),
    }[name](sample(8))
    torch.testing.assert_close(alone.weights, expected.weights)


@every_risk
def test_without_n_nothing_is_remembered(name):
    risk = RISKS[name]()
    risk(sample(4))
    assert set(risk.state_dict()) == {name for name, _ in risk.named_parameters()}


@every_risk
def test_a_dataset_of_one_sample(name):
    loss = torch.tensor([2.5], dtype=torch.float64)
    alone, remembered = RISKS[name](), RISKS[name](1)
    assert torch.equal(remembered(loss, index=torch.tensor([0])).value, alone(loss).value)


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_residual_is_the_last_that_was_seen(name):
    n = 10
    risk = RISKS[name](n)
    risk(sample(n), index=torch.arange(n))
    index = torch.tensor([7, 2, 5])
    out = risk(sample(3, 9), index=index)
    now = sample(n)
    now[index] = sample(3, 9)
    torch.testing.assert_close(out.value, RISKS[name]()(now).value)


@every_risk
def test_resume_is_exact(name):
    n = 12

    def steps(risk: Risk, seeds: range) -> list[Tensor]:
        return [
            risk(sample(4, seed), sample(4, seed + 50), torch.randperm(n, generator=g)[:4]).loss
            for seed in seeds
            for g in [torch.Generator().manual_seed(seed)]
        ]

    through = RISKS[name](n)
    expected = steps(through, range(8))[4:]
    first, second = RISKS[name](n), RISKS[name](n)
    steps(first, range(4))
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(steps(second, range(4, 8)), expected, strict=True))
    assert set(second.state_dict()) == set(through.state_dict())


@every_risk
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_types(name, dtype):
    loss = sample(8, dtype=dtype).requires_grad_()
    out = RISKS[name](8)(loss, sample(8, 1, dtype), torch.arange(8))
    out.loss.backward()
    wide = torch.promote_types(dtype, torch.float32)
    assert {out.value.dtype, out.weights.dtype, out.mass.dtype, out.loss.dtype} == {wide}
    assert loss.grad is not None
    assert loss.grad.dtype == dtype
    expected = RISKS[name]()(loss.detach().double(), sample(8, 1, dtype).double())
    torch.testing.assert_close(out.value, expected.value.to(wide))


@every_risk
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [None, 5])
def test_extremes_stay_finite(name, dtype, n):
    risk = RISKS[name](n)
    for values in (
        [1e30, -1e30, 0.0, 1.0, 1e30],
        [-1e30] * 5,
        [1e4, -1e4, 1e4 + 1e-3, 0, 0],
        [1e30, 1e-30, -1e-30, 0.0, 0.0],
        [0.0] * 5,
    ):
        loss = torch.tensor(values, dtype=dtype, requires_grad=True)
        out = risk(loss, torch.zeros(5, dtype=dtype), None if n is None else torch.arange(5))
        out.loss.backward()
        assert loss.grad is not None
        assert torch.isfinite(loss.grad).all()
        assert torch.isfinite(out.value)
        assert math.isclose(float(out.weights.sum()), 1, rel_tol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_risk
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gpu_gives_the_same(name, dtype):
    for n in (None, 40):
        here, there = RISKS[name](n), RISKS[name](n).cuda()
        for seed in range(3):
            index = None if n is None else torch.randperm(n)[:9]
            loss, reference = sample(9, seed, dtype), sample(9, seed + 5, dtype)
            expected = here(loss, reference, index)
            out = there(loss.cuda(), reference.cuda(), index)
            torch.testing.assert_close(out.loss.cpu(), expected.loss)
            torch.testing.assert_close(out.weights.cpu(), expected.weights)


@every_risk
def test_autocast_changes_nothing(name):
    loss, reference = sample(8, dtype=torch.float32), sample(8, 1, torch.float32)
    plain = RISKS[name]()(loss, reference)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = RISKS[name]()(loss, reference)
    assert torch.equal(plain.loss, under.loss)
    assert torch.equal(plain.weights, under.weights)


@every_risk
def test_no_gradient_reaches_the_reference(name):
    loss, reference = sample(8).requires_grad_(), sample(8, 1).requires_grad_()
    RISKS[name]()(loss, reference).loss.backward()
    assert reference.grad is None


def _with(values: Tensor, place: int, value: float) -> Tensor:
    values = values.clone()
    values[place] = value
    return values


@every_risk
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda b: b | {"loss": _with(b["loss"], 2, math.nan)}, "loss holds nan in row 2"),
        (
            lambda b: b | {"reference_loss": _with(b["reference_loss"], 1, math.inf)},
            "reference_loss holds inf in row 1",
        ),
        (lambda b: b | {"loss": b["loss"].mean()}, r"loss must be .* \[B\].*reduction"),
        (lambda b: b | {"loss": b["loss"].long()}, "not torch.int64"),
        (lambda b: b | {"loss": b["loss"][:0]}, r"not torch.float64 \[0\]"),
        (lambda b: b | {"reference_loss": b["loss"][:3]}, "4 losses, but reference losses of 3"),
        (lambda b: b | {"index": None}, "index goes with n: this risk was made with n"),
        (lambda b: b | {"index": torch.tensor([0, 1, 2, 9])}, "index 9 is out of range.*n=9"),
        (lambda b: b | {"index": torch.tensor([0, -1, 2, 3])}, "index -1"),
        (lambda b: b | {"index": torch.tensor([0, 5, 2, 5])}, "index 5 comes 2 times"),
        (lambda b: b | {"index": torch.arange(3)}, r"int64 \[4\]"),
        (lambda b: b | {"index": torch.arange(4.0)}, "int64"),
    ],
)
def test_a_bad_batch_is_named_and_changes_nothing(name, change, named):
    risk = RISKS[name](9)
    good = {"loss": sample(4), "reference_loss": sample(4, 1), "index": torch.arange(4)}
    risk(**good)
    before = {key: value.clone() for key, value in risk.state_dict().items()}
    with pytest.raises(InvalidInput, match=named):
        risk(**change(good))
    assert all(torch.equal(before[key], value) for key, value in risk.state_dict().items())


@every_risk
def test_an_index_without_n(name):
    with pytest.raises(InvalidInput, match="made without n"):
        RISKS[name]()(sample(4), index=torch.arange(4))
