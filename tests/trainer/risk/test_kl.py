"""KLRisk against its primal problem, and its moving average against one in plain numbers."""

import math
from decimal import Decimal, getcontext

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer import KLBallRisk, KLRisk


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2, 12),
    shift=st.floats(-3, 3),
    tau=st.floats(0.1, 10.0),
    seed=st.integers(0, 1000),
)
def test_value_and_weights_are_the_primal_problems(n, shift, tau, seed):
    delta = np.random.default_rng(seed).normal(size=n) + shift
    p, divergence = cp.Variable(n), cp.Variable()  # its own, for log p of a p that is 0 − 1e-12
    constraints = [cp.sum(p) == 1, divergence >= math.log(n) - cp.sum(cp.entr(p))]
    problem = cp.Problem(cp.Maximize(p @ delta - tau * divergence), constraints)
    problem.solve(solver=cp.CLARABEL)
    out = KLRisk(tau)(torch.tensor(delta))
    assert float(out.value) == pytest.approx(problem.value, abs=1e-6)
    np.testing.assert_allclose(out.weights, p.value, atol=1e-4)


def test_limits_in_tau():
    delta = torch.tensor([-2.0, 0.5, 1.0, -0.1])
    assert float(KLRisk(1e6)(delta).value) == pytest.approx(float(delta.mean()), abs=1e-5)
    assert float(KLRisk(1e-6)(delta).value) == pytest.approx(1.0, abs=1e-5)


def test_moving_average_is_the_one_in_plain_numbers():
    n, batch, tau, gamma = 20, 5, 0.7, 0.3
    risk = KLRisk(tau, n=n, gamma=gamma)
    generator = torch.Generator().manual_seed(0)
    u = None
    for _ in range(6):
        index = torch.randperm(n, generator=generator)[:batch]
        loss = torch.randn(batch, generator=generator, dtype=torch.float64, requires_grad=True)
        reference = torch.randn(batch, generator=generator, dtype=torch.float64)
        out = risk(loss, reference, index)
        out.loss.backward()

        exponentials = ((loss - reference) / tau).exp().detach()
        mean = float(exponentials.mean())
        u = mean if u is None else (1 - gamma) * u + gamma * mean
        torch.testing.assert_close(loss.grad, exponentials / (batch * u))
        torch.testing.assert_close(out.weights, exponentials / exponentials.sum())
        assert float(out.mass) == pytest.approx(mean / u)
        assert float(out.value) == pytest.approx(tau * math.log(u))


@pytest.mark.parametrize(
    "make",
    [lambda n: KLRisk(0.5, n=n), lambda n: KLBallRisk(0.5 * n, n=n, form="learned", tau=0.5)],
)
def test_batches_are_averaged_by_default(make):
    """Their mean gradient is then near that of the whole dataset, which single batches miss."""
    n, batch, epochs = 640, 16, 20
    delta = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = torch.softmax(delta / 0.5, 0)
    errors = []
    for gamma in (None, 1.0):
        risk = make(n)
        if gamma:
            risk.mean_exp.gamma = gamma
        mean = torch.zeros(n, dtype=torch.float64)
        generator = torch.Generator().manual_seed(1)
        for _ in range(epochs):
            for index in torch.randperm(n, generator=generator).split(batch):
                loss = delta[index].requires_grad_()
                risk(loss, index=index).loss.backward()
                mean[index] += loss.grad * batch / n / epochs
        errors.append(float((mean - whole).norm() / whole.norm()))
    assert errors[0] < errors[1] / 2


def test_gamma_may_be_set_and_is_checked():
    risk = KLRisk(1.0, n=4)
    assert risk.mean_exp is not None
    risk.mean_exp.gamma = 0.5
    with pytest.raises(InvalidInput, match=r"gamma=1\.5"):
        risk.mean_exp.gamma = 1.5
    assert risk.mean_exp.gamma == 0.5


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan, math.inf])
def test_tau_out_of_range(tau):
    with pytest.raises(InvalidInput, match="tau="):
        KLRisk(tau)


@pytest.mark.parametrize("gamma", [0.0, -0.1, 1.1, math.nan])
def test_gamma_out_of_range(gamma):
    with pytest.raises(InvalidInput, match="gamma="):
        KLRisk(1.0, gamma=gamma)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e13, 1e16, 1e30, 1e300])
def test_weights_and_mass_where_the_exponents_are_huge(scale, learned):
    """Against 800 digits: a moving average over batches whose largest δ are close, or are not."""
    getcontext().prec = 800
    tau, gamma, radius = scale * 1e-15 if not learned else 0.25, 0.5, 0.3
    if learned:
        risk = KLBallRisk(radius * 4, n=4, form="learned", tau=tau, gamma=gamma).double()
    else:
        risk = KLRisk(tau, n=4, gamma=gamma)
    step = Decimal(math.ulp(scale) if learned else tau)
    batches = [[0, 1, -2, 3], [1, 2, 2, 0], [-1, 0, 1, -3], [-400, -300, 2, 2], [4, 4, 4, 4]]
    u = None
    for batch in batches:
        delta = torch.tensor(
            [float(Decimal(scale) + k * step) for k in batch], dtype=torch.float64
        ).requires_grad_()
        risk.zero_grad()
        out = risk(delta, index=torch.arange(4))
        out.loss.backward()
        exponents = [Decimal(float(each)) / Decimal(tau) for each in delta.detach()]
        top = max(exponents)
        if top - min(exponents) > 10**6:
            exponents = [max(each, top - 10**6) for each in exponents]
        log_g = top + (sum((each - top).exp() for each in exponents) / 4).ln()
        if u is None:
            u = log_g
        else:
            high = max(u, log_g)
            g = Decimal(gamma)
            u = high + ((1 - g) * (max(u - high, Decimal(-(10**6)))).exp()
                        + g * (max(log_g - high, Decimal(-(10**6)))).exp()).ln()  # fmt: skip
        share = [(each - u).exp() / 4 for each in exponents]
        assert float(out.mass) == pytest.approx(float(sum(share)), rel=1e-9)
        assert delta.grad is not None
        np.testing.assert_allclose(delta.grad, [float(each) for each in share], rtol=1e-9)
        assert sum(out.weights.tolist()) == pytest.approx(1)
        value = Decimal(tau) * (u + (Decimal(radius) if learned else 0))
        assert float(out.value) == pytest.approx(float(value), rel=1e-12)
        if learned:
            slope = (
                u
                + Decimal(radius)
                - sum(w * each for w, each in zip(share, exponents, strict=True))
            )
            found = float(next(risk.parameters()).grad)  # pyright: ignore
            assert found == pytest.approx(float(slope), rel=1e-6, abs=1e-6)
