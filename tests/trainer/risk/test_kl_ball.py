"""KLBallRisk against its primal problem, its dual by a scalar search, and its limits."""

import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer import KLBallRisk


def residuals(n: int, shift: float, ties: bool, seed: int) -> np.ndarray:
    delta = np.random.default_rng(seed).normal(size=n) + shift
    return delta.round() if ties else delta


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 12),
    shift=st.floats(-3, 3),
    share=st.floats(0.01, 1.2),
    ties=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_value_is_that_of_the_primal_and_of_the_dual(n, shift, share, ties, seed):
    delta = residuals(n, shift, ties, seed)
    radius = share * math.log(n)
    out = KLBallRisk(radius * n)(torch.tensor(delta))

    p = cp.Variable(n)
    divergence = math.log(n) - cp.sum(cp.entr(p))
    problem = cp.Problem(cp.Maximize(p @ delta), [cp.sum(p) == 1, divergence <= radius])
    problem.solve(solver=cp.CLARABEL)
    assert float(out.value) == pytest.approx(problem.value, abs=1e-6)

    def dual(log_tau: float) -> float:
        tau = math.exp(log_tau)
        return float(tau * (logsumexp(delta / tau) - math.log(n)) + tau * radius)

    best = minimize_scalar(dual, bounds=(-20, 10), method="bounded", options={"xatol": 1e-9})
    assert float(out.value) == pytest.approx(best.fun, abs=1e-6)

    weights = out.weights.numpy()
    positive = weights[weights > 0]
    assert (positive * np.log(positive * n)).sum() <= radius + 1e-9


@pytest.mark.parametrize("form", ["exact", "learned"])
def test_no_radius_is_the_mean(form):
    delta = torch.tensor([-2.0, 0.5, 1.0, -0.1], dtype=torch.float64)
    risk = KLBallRisk(0.0, form=form, tau=1e7)
    assert float(risk(delta).value) == pytest.approx(float(delta.mean()), abs=1e-6)


def test_small_radius_comes_to_the_variance_formula():
    delta = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rho = 1e-4
    expected = delta.mean() + (2 * rho / 1000 * delta.var(correction=0)).sqrt()
    torch.testing.assert_close(KLBallRisk(rho)(delta).value, expected, rtol=0, atol=1e-6)


def test_large_radius_is_the_maximum_shared_by_those_that_have_it():
    delta = torch.tensor([1.0, -3.0, 1.0, 0.0])
    out = KLBallRisk(4 * math.log(2))(delta)
    assert out.weights.tolist() == [0.5, 0, 0.5, 0]
    assert float(out.value) == 1.0


def test_almost_tied_residuals_are_told_apart():
    delta = torch.tensor([0.0, -1e-12, -1.0, -2.0], dtype=torch.float64)
    radius = 0.9 * math.log(4)
    weights = KLBallRisk(4 * radius)(delta).weights
    positive = weights[weights > 0]
    assert float((positive * (4 * positive).log()).sum()) == pytest.approx(radius, abs=1e-9)


def test_residuals_whose_variance_is_no_number_are_ties():
    """Newton's method has no slope to go by."""
    delta = torch.tensor([0.0, -1e-170, -1.0, -2.0], dtype=torch.float64)
    weights = KLBallRisk(4 * 0.9 * math.log(4))(delta).weights
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5, 0, 0], dtype=torch.float64))


@pytest.mark.parametrize("share", [1e-8, 1e-5, 1e-2, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6])
@pytest.mark.parametrize("power", [1, 5])
def test_the_worst_weights_lie_on_the_edge_and_are_exponential(share, power):
    """What makes them the worst: KL = ρ/n, and log p linear in δ with a positive slope."""
    n = 12
    delta = torch.randn(n, generator=torch.Generator().manual_seed(power), dtype=torch.float64)
    delta = delta**power  # a long tail
    radius = share * math.log(n)
    weights = KLBallRisk(radius * n)(delta).weights
    kept = weights > 1e-250  # whose logarithms have all their digits
    divergence = torch.special.xlogy(weights, n * weights).sum()
    assert float(divergence) == pytest.approx(radius, rel=1e-6)
    slope = (weights[kept].log().max() - weights[kept].log()) / (delta.max() - delta[kept])
    slope = slope[torch.isfinite(slope)]
    assert (slope > 0).all()
    torch.testing.assert_close(slope, slope.mean().expand_as(slope), rtol=1e-6, atol=0)


def test_learned_temperature_settles_at_the_exact_risk():
    delta = torch.randn(30, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rho = 12.0
    exact, learned = KLBallRisk(rho), KLBallRisk(rho, form="learned", tau=0.3)
    optimizer = torch.optim.SGD(learned.parameters(), lr=0.1)
    for _ in range(500):
        optimizer.zero_grad()
        learned(delta).loss.backward()
        optimizer.step()
    torch.testing.assert_close(learned(delta).value, exact(delta).value, rtol=0, atol=1e-8)
    torch.testing.assert_close(learned(delta).weights, exact(delta).weights, rtol=0, atol=1e-5)


def test_learned_temperature_has_the_duals_derivative_over_batches():
    """u as a plain number, and the derivative that DESIGN's section 6 gives for a whole mean."""
    n, batch, rho, gamma, tau = 12, 4, 3.0, 0.4, 0.5
    risk = KLBallRisk(rho, n=n, form="learned", tau=tau, gamma=gamma)
    generator = torch.Generator().manual_seed(1)
    u = None
    for _ in range(4):
        index = torch.randperm(n, generator=generator)[:batch]
        delta = torch.randn(batch, generator=generator, dtype=torch.float64)
        risk.zero_grad()
        risk(delta, index=index).loss.backward()
        exponentials = (delta / tau).exp()
        mean = float(exponentials.mean())
        u = mean if u is None else (1 - gamma) * u + gamma * mean
        expected = math.log(u) + rho / n - float((exponentials * delta / tau).mean()) / u
        assert float(risk.temperature.tau.grad) == pytest.approx(expected, rel=1e-6)


def test_the_average_is_of_plain_numbers_while_the_temperature_moves():
    """u holds exp(δ/τ) with the τ of each batch's time."""
    n, gamma, rho = 12, 0.4, 3.0
    risk = KLBallRisk(rho, n=n, form="learned", tau=0.5, gamma=gamma).double()
    u = None
    for seed, tau in enumerate([0.5, 0.8, 0.3, 0.3, 1.2]):
        with torch.no_grad():
            risk.temperature.tau.fill_(tau)
        delta = torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        out = risk(delta, index=torch.arange(4))
        exponentials = (delta / tau).exp()
        mean = float(exponentials.mean())
        u = mean if u is None else (1 - gamma) * u + gamma * mean
        assert float(out.mass) == pytest.approx(mean / u)
        assert float(out.value) == pytest.approx(tau * math.log(u) + tau * rho / n)


@pytest.mark.parametrize("tau", [0.01, torch.finfo(torch.float32).max])
def test_temperatures_at_the_edge_of_their_range(tau):
    out = KLBallRisk(0.0, form="learned", tau=tau)(torch.zeros(3))
    assert torch.isfinite(out.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"rho": -0.1}, "rho=-0.1"),
        ({"rho": math.nan}, "rho=nan"),
        ({"rho": 1.0, "form": "dual"}, "form='dual' is not 'exact' or 'learned'"),
        ({"rho": 1.0, "form": "learned", "tau": 0.0}, "tau=0.0"),
        ({"rho": 1.0, "form": "learned", "gamma": 0.0}, "gamma=0.0"),
        ({"rho": 1.0, "n": 0}, "n=0"),
    ],
)
def test_values_out_of_range(arguments, named):
    with pytest.raises(InvalidInput, match=named):
        KLBallRisk(**arguments)
