"""CVaRRisk against its primal problem, and its dual form against both."""

import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer import CVaRRisk


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 12),
    shift=st.floats(-3, 3),
    alpha=st.floats(0.05, 1.0),
    ties=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_value_is_that_of_the_primal_and_of_the_dual(n, shift, alpha, ties, seed):
    delta = np.random.default_rng(seed).normal(size=n) + shift
    delta = delta.round() if ties else delta
    out = CVaRRisk(alpha=alpha)(torch.tensor(delta))
    p = cp.Variable(n)
    constraints = [p >= 0, cp.sum(p) == 1, p <= 1 / (alpha * n)]
    problem = cp.Problem(cp.Maximize(p @ delta), constraints)
    problem.solve(solver=cp.CLARABEL)
    assert float(out.value) == pytest.approx(problem.value, abs=1e-6)
    assert float(out.weights.max()) <= max(1 / (alpha * n), 1) + 1e-12

    # The dual is piecewise linear in μ, so it is least at one of the residuals.
    duals = [mu + np.maximum(delta - mu, 0).mean() / alpha for mu in delta]
    assert min(duals) == pytest.approx(problem.value, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_whole_k_is_the_mean_of_the_k_largest(k):
    delta = torch.tensor([0.3, -1.0, 2.0, 0.1, -0.5])
    expected = delta.sort(descending=True).values[:k].mean()
    torch.testing.assert_close(CVaRRisk(k)(delta).value, expected)
    torch.testing.assert_close(CVaRRisk(alpha=k / 5)(delta).value, expected)


def test_a_fraction_of_k_counts_at_the_boundary():
    delta = torch.tensor([4.0, 1.0, 3.0, 0.0])
    out = CVaRRisk(1.5)(delta)
    torch.testing.assert_close(out.weights, torch.tensor([2 / 3, 0, 1 / 3, 0]))


def test_ties_at_the_boundary_share():
    out = CVaRRisk(2)(torch.tensor([1.0, 5.0, 1.0, 0.0]))
    assert out.weights.tolist() == [0.25, 0.5, 0.25, 0.0]


def test_learned_mu_settles_at_the_exact_risk():
    delta = torch.randn(40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact, dual = CVaRRisk(10), CVaRRisk(10, form="dual").double()
    optimizer = torch.optim.SGD(dual.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 400)
    for _ in range(400):
        optimizer.zero_grad()
        dual(delta).loss.backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(dual(delta).value, exact(delta).value, rtol=0, atol=1e-4)


def test_dual_has_the_derivatives_of_its_formula():
    generator = torch.Generator().manual_seed(4)
    loss = torch.randn(9, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(9, generator=generator, dtype=torch.float64)
    risk = CVaRRisk(alpha=0.4, form="dual", mu=0.2).double()
    out = risk(loss, reference)
    out.loss.backward()
    mu = risk.mu.detach().clone().requires_grad_()
    formula = mu + torch.relu(loss - reference - mu).mean() / 0.4
    gradients = torch.autograd.grad(formula, [loss, mu])
    torch.testing.assert_close(out.value, formula.detach())
    torch.testing.assert_close(loss.grad, gradients[0])
    torch.testing.assert_close(risk.mu.grad, gradients[1])


def test_a_sample_at_mu_has_the_derivatives_of_one_below():
    """The hinge's kink, where the formula's derivatives are relu's."""
    loss = torch.tensor([0.5, 0.25, -1.0], dtype=torch.float64, requires_grad=True)
    risk = CVaRRisk(alpha=0.5, form="dual", mu=0.25).double()
    risk(loss).loss.backward()
    mu = risk.mu.detach().clone().requires_grad_()
    formula = mu + torch.relu(loss - mu).mean() / 0.5
    gradients = torch.autograd.grad(formula, [loss, mu])
    torch.testing.assert_close(loss.grad, gradients[0])
    torch.testing.assert_close(risk.mu.grad, gradients[1])


def test_all_samples_of_a_dataset_are_the_mean():
    risk = CVaRRisk(4, n=4)
    assert float(risk(torch.tensor([3.0, 1.0, 0.0, 0.0]), index=torch.arange(4)).value) == 1.0


def test_a_batch_below_mu_has_no_gradient_but_mus():
    loss = torch.tensor([-1.0, -2.0], requires_grad=True)
    risk = CVaRRisk(alpha=0.5, form="dual")
    out = risk(loss)
    out.loss.backward()
    assert loss.grad is not None
    assert loss.grad.tolist() == [0, 0]
    assert risk.mu.grad == 1
    assert out.weights.tolist() == [0.5, 0.5]
    assert out.mass == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "either k or alpha"),
        ({"k": 1, "alpha": 0.5}, "either k or alpha"),
        ({"k": 0}, "k=0"),
        ({"k": 5, "n": 4}, "k=5 must be above 0 and at most n=4"),
        ({"k": math.nan}, "k=nan"),
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"k": 1, "mu": math.inf}, "mu=inf"),
        ({"k": 1, "form": "exact"}, "form='exact' is not 'topk' or 'dual'"),
    ],
)
def test_values_out_of_range(arguments, named):
    with pytest.raises(InvalidInput, match=named):
        CVaRRisk(**arguments)


def test_k_larger_than_the_batch():
    with pytest.raises(InvalidInput, match="k=5 of a batch of 3"):
        CVaRRisk(5)(torch.zeros(3))
