"""ChiSquareRisk against its primal problem, its dual by a scalar search, and its limits."""

import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer import ChiSquareRisk


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 14),
    shift=st.floats(-30, 30),
    share=st.floats(0.001, 1.2),
    ties=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_value_and_weights_are_the_primals_and_the_value_the_duals(n, shift, share, ties, seed):
    delta = np.random.default_rng(seed).normal(size=n) * 3
    delta = (delta.round() if ties else delta) + shift
    radius = share * (n - 1) / 2
    out = ChiSquareRisk(radius * n)(torch.tensor(delta))

    p = cp.Variable(n)
    divergence = cp.sum_squares(n * p - 1) / (2 * n)
    problem = cp.Problem(cp.Maximize(p @ delta), [p >= 0, cp.sum(p) == 1, divergence <= radius])
    problem.solve(solver=cp.CLARABEL)
    assert float(out.value) == pytest.approx(problem.value, abs=1e-6)
    weights = out.weights.numpy()
    assert ((n * weights - 1) ** 2).sum() / (2 * n) <= radius + 1e-9

    def dual(eta: float) -> float:
        return eta + math.sqrt((1 + 2 * radius) * (np.maximum(delta - eta, 0) ** 2).mean())

    lowest = delta.mean() - 2 * n * np.ptp(delta) / radius**0.5 - 1
    best = minimize_scalar(dual, bounds=(lowest, delta.max()), options={"xatol": 1e-10})
    assert float(out.value) == pytest.approx(best.fun, abs=1e-6)


def test_negative_residuals_are_not_all_alike():
    delta = torch.tensor([-5.0, -1.0, -9.0])
    weights = ChiSquareRisk(0.3)(delta).weights
    assert weights[1] > weights[0] > weights[2]


def test_an_uncut_ball_is_the_variance_formula():
    delta = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rho = 2.0
    expected = delta.mean() + (2 * rho / 50 * delta.var(correction=0)).sqrt()
    out = ChiSquareRisk(rho)(delta)
    assert (out.weights > 0).all()
    torch.testing.assert_close(out.value, expected)


def test_no_radius_is_the_mean():
    delta = torch.tensor([-2.0, 0.5, 1.0, -0.1], dtype=torch.float64)
    out = ChiSquareRisk(0.0)(delta)
    assert out.weights.tolist() == [0.25] * 4
    assert float(out.mass) == 1
    assert float(out.value) == pytest.approx(float(delta.mean()))
    assert float(ChiSquareRisk(1e-18)(delta).value) == pytest.approx(float(delta.mean()))


def test_large_radius_is_the_maximum_shared_by_those_that_have_it():
    delta = torch.tensor([1.0, -3.0, 1.0, 0.0])
    for rho in (2.0, 6.0, 1e9):  # (4/2 − 1)/2 · 4 = 2 is enough for two
        out = ChiSquareRisk(rho)(delta)
        torch.testing.assert_close(out.weights, torch.tensor([0.5, 0, 0.5, 0]))
        assert float(out.value) == pytest.approx(1.0)


def test_values_between_which_no_number_fits():
    """Equality of the constraint falls on a rounding error."""
    delta = torch.tensor([0.0, -1e-20, -1.0], dtype=torch.float64)
    weights = ChiSquareRisk(0.75)(delta).weights
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("rho", [-0.1, math.nan, math.inf])
def test_rho_out_of_range(rho):
    with pytest.raises(InvalidInput, match="rho="):
        ChiSquareRisk(rho)
