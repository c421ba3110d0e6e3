"""The losses against autograd through the objective as it is written on paper."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.loss.contrastive import DRRhoClipLoss, GlobalContrastiveLoss
from rhocache_trainer.loss.temperature import MODES


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(
        dtype
    )


def objective(image, text, reference_image, reference_text, tau, rho, epsilon, scaled) -> Tensor:
    """F over all pairs, pair by pair, by plain exponentials; ``tau`` is each one's τ1 and τ2."""
    s, r = image @ text.T, reference_image @ reference_text.T
    total = torch.zeros((), dtype=torch.float64)
    n = len(image)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        e1 = torch.stack([(s[i, j] - s[i, i]) - (r[i, j] - r[i, i]) for j in others])
        e2 = torch.stack([(s[j, i] - s[i, i]) - (r[j, i] - r[i, i]) for j in others])
        for e, own_tau in ((e1, tau[i, 0]), (e2, tau[i, 1])):
            inner = torch.log(epsilon + (e / own_tau).exp().mean())
            total = total + (own_tau * inner + own_tau * rho if scaled else inner) / n
    return total


def leaves(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    return (
        unit(n, d, seed=seed).requires_grad_(),
        unit(n, d, seed=seed + 1).requires_grad_(),
    )


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 12),
    d=st.integers(2, 9),
    d_reference=st.integers(2, 9),
    mode=st.sampled_from(MODES),
    tau=st.floats(0.05, 1.0),
    rho_share=st.floats(0.0, 0.9),
    epsilon=st.sampled_from([0.0, 1e-14, 1e-3]),
    scaled=st.booleans(),
    tile=st.sampled_from([1, 30, 1000]),
    seed=st.integers(0, 1000),
)
def test_full_batch_gradients_are_those_of_the_objective(
    n, d, d_reference, mode, tau, rho_share, epsilon, scaled, tile, seed
):
    rho = rho_share * math.log(n - 1)
    image, text = leaves(n, d, seed)
    reference = unit(n, d_reference, seed=seed + 2), unit(n, d_reference, seed=seed + 3)
    arguments = {"temperature": mode, "rho": rho, "gamma": 1.0, "epsilon": epsilon}
    loss = DRRhoClipLoss(n, tau=tau, scaled=scaled, **arguments).double()
    shape = loss.temperature.tau.shape
    generator = torch.Generator().manual_seed(seed)
    taus = tau * (1 + torch.rand(shape, generator=generator, dtype=torch.float64))
    with torch.no_grad():
        loss.temperature.tau.copy_(taus)
    index = torch.randperm(n, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rhocache_trainer.loss.tiles._CPU_NUMBERS", tile)
        out = loss(image, text, *reference, index)
    out.loss.backward()

    taus = taus.requires_grad_()
    of_pairs = taus[index] if mode == "individual" else taus.expand(n, 2)
    expected = objective(image, text, *reference, of_pairs, rho, epsilon, scaled)
    gradients = torch.autograd.grad(expected, [image, text, taus])
    for value in (out.loss, out.objective):
        torch.testing.assert_close(value.detach(), expected.detach(), rtol=0, atol=1e-8)
    torch.testing.assert_close(image.grad, gradients[0], rtol=0, atol=1e-8)
    torch.testing.assert_close(text.grad, gradients[1], rtol=0, atol=1e-8)
    if mode != "constant":
        own = loss.temperature.tau.grad.to_dense()
        torch.testing.assert_close(own, gradients[2], rtol=0, atol=1e-8)


def test_global_loss_is_drrho_with_a_reference_that_tells_nothing():
    n = 8
    image, text = leaves(n, 4, 0)
    constant = torch.eye(3, dtype=torch.float64)[:1].expand(n, 3)  # every r_ij = 1
    index = torch.arange(n)
    plain, steered = GlobalContrastiveLoss(n).double(), DRRhoClipLoss(n).double()
    for out in (plain(image, text, index), steered(image, text, constant, constant, index)):
        out.loss.backward()
    torch.testing.assert_close(
        plain.temperature.tau.grad, steered.temperature.tau.grad, rtol=0, atol=1e-12
    )
    assert plain.state_dict().keys() == steered.state_dict().keys()


def test_moving_average_is_the_one_in_plain_space():
    """Mini-batches, γ < 1: weights and τ gradient from u kept as an ordinary number."""
    n, batch, tau, rho, gamma, epsilon = 12, 5, 0.2, 1.0, 0.3, 1e-6
    loss = DRRhoClipLoss(n, tau=tau, rho=rho, gamma=gamma, epsilon=epsilon).double()
    with torch.no_grad():
        loss.temperature.tau.fill_(tau)
    u: dict[tuple[str, int], float] = {}
    generator = torch.Generator().manual_seed(1)
    for step in range(6):
        index = torch.randperm(n, generator=generator)[:batch]
        image, text = leaves(batch, 4, 10 * step)
        reference = unit(batch, 3, seed=10 * step + 2), unit(batch, 3, seed=10 * step + 3)
        loss.zero_grad()
        loss(image, text, *reference, index).loss.backward()

        s, r = image @ text.T, reference[0] @ reference[1].T
        expected = torch.zeros((), dtype=torch.float64)
        tau_gradient = 0.0
        for side, (a, b) in {"image": (s, r), "text": (s.T, r.T)}.items():
            for i in range(batch):
                others = [j for j in range(batch) if j != i]
                d = ((a[i, others] - a[i, i] - b[i, others] + b[i, i]) / tau).detach()
                g = float(d.exp().mean())
                pair = (side, int(index[i]))
                u[pair] = (1 - gamma) * u[pair] + gamma * g if pair in u else g
                weights = d.exp() / (epsilon + u[pair])
                expected = expected + (weights * (a[i, others] - a[i, i])).mean() / batch
                tau_gradient += (
                    math.log(epsilon + u[pair]) + rho - float((weights * d).mean())
                ) / batch
        gradients = torch.autograd.grad(expected, [image, text])
        torch.testing.assert_close(image.grad, gradients[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(text.grad, gradients[1], rtol=0, atol=1e-10)
        assert float(loss.temperature.tau.grad) == pytest.approx(tau_gradient, abs=1e-10)


def test_only_the_pairs_of_the_batch_are_marked_seen():
    loss = GlobalContrastiveLoss(6)
    loss(unit(3, 4), unit(3, 4, seed=1), torch.tensor([4, 0, 2]))
    for average in (loss.image_average, loss.text_average):
        assert average.seen.tolist() == [True, False, True, False, True, False]
        assert (average.log_u[~average.seen] == 0).all()


@pytest.mark.parametrize("gamma", [1.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_temperature_stays_finite(gamma, dtype):
    """Opposed features at τ = 0.01: exponents of ±400, far beyond float32's range."""
    n = 4
    loss = DRRhoClipLoss(n, tau=0.01, rho=0.5, gamma=gamma)
    axis = torch.eye(2, dtype=dtype)[:1]
    for sign in (1, -1, 1):  # u is first far too large, then far too small, for the next batch
        image = torch.cat([axis, -axis, axis, -axis]).requires_grad_()
        text = (sign * image.detach()).requires_grad_()
        reference = torch.cat([axis, -axis, axis, -axis])
        out = loss(image, text, reference, -sign * reference, torch.arange(n))
        out.loss.backward()
        values = [out.objective, image.grad, text.grad, loss.temperature.tau.grad]
        assert all(torch.isfinite(value).all() for value in values)
        assert float(image.grad.float().abs().max()) <= 2 * 2 / gamma


def test_float32_under_autocast():
    image, text = unit(6, 8, dtype=torch.float32), unit(6, 8, seed=1, dtype=torch.float32)
    outputs = []
    for enabled in (False, True):
        loss = GlobalContrastiveLoss(6)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            outputs.append(loss(image, text, torch.arange(6)))
    assert outputs[0].objective.dtype == outputs[1].objective.dtype == torch.float32
    assert torch.equal(outputs[0].objective, outputs[1].objective)
    r = torch.ones(6, 1).double()  # a reference that tells nothing
    taus = torch.full((6, 2), 0.07, dtype=torch.float64)
    expected = objective(
        image.double(), text.double(), r, r, taus, math.log(5) / 3, 1e-14, scaled=True
    )
    torch.testing.assert_close(outputs[0].objective.double(), expected, rtol=1e-5, atol=0)


def test_state_dict_brings_back_u_and_tau():
    n = 10
    first = DRRhoClipLoss(n, gamma=0.5)
    batch = (unit(4, 3), unit(4, 3, seed=1), unit(4, 3, seed=2), unit(4, 3, seed=3))
    first(*batch, torch.tensor([1, 3, 5, 7]))
    with torch.no_grad():
        first.temperature.tau.fill_(0.123)
    second = DRRhoClipLoss(n, gamma=0.5)
    second.load_state_dict(first.state_dict())
    index = torch.tensor([3, 4, 5, 6])
    one, other = first(*batch, index), second(*batch, index)
    assert torch.equal(one.objective, other.objective)
    assert torch.equal(one.tau, other.tau)
    assert float(one.tau) == pytest.approx(0.123)


def test_temperature_is_projected_onto_its_floor():
    loss = GlobalContrastiveLoss(4)
    batch = unit(4, 3), unit(4, 3, seed=1), torch.arange(4)
    with torch.no_grad():
        loss.temperature.tau.fill_(-3.0)
        assert float(loss(*batch).tau) == pytest.approx(0.01)
        assert float(loss.temperature.tau) == -3.0  # a look changes nothing
    out = loss(*batch)
    assert float(out.tau) == pytest.approx(0.01)
    assert float(loss.temperature.tau.detach()) == pytest.approx(0.01)
    assert not out.tau.requires_grad


@pytest.mark.parametrize("mode", MODES)
def test_temperatures_of_single_pairs_are_hidden_from_who_asks_each_module(mode):
    """As DistributedDataParallel does, which could not reduce their sparse gradients."""
    loss = GlobalContrastiveLoss(4, temperature=mode)
    everywhere = [name for name, _ in loss.named_parameters()]
    assert everywhere == ([] if mode == "constant" else ["temperature.tau"])
    alone = [name for name, _ in loss.temperature.named_parameters(recurse=False)]
    assert alone == (["tau"] if mode in ("learnable", "separate") else [])


def test_individual_temperatures_of_other_pairs_stay() -> None:
    loss = DRRhoClipLoss(10, temperature="individual", rho=0.5)
    optimizer = torch.optim.SparseAdam(loss.parameters(), lr=0.05)
    reference = unit(3, 4, seed=2), unit(3, 4, seed=3)
    for index in ([1, 4, 7], [7, 2, 1]):
        optimizer.zero_grad()
        loss(unit(3, 4), unit(3, 4, seed=1), *reference, torch.tensor(index)).loss.backward()
        optimizer.step()
    moved = (loss.temperature.tau != 0.07).any(dim=1)
    assert moved.tolist() == [number in (1, 2, 4, 7) for number in range(10)]


def test_steering_tells_what_the_weights_are() -> None:
    n, tau = 9, 0.1
    features = unit(n, 4), unit(n, 4, seed=1)
    reference = unit(n, 5, seed=2), unit(n, 5, seed=3)
    loss = DRRhoClipLoss(n, tau=tau, rho=0.5).double()
    index = torch.randperm(n)
    found = loss(*features, *reference, index, steering=True).steering
    e = features[0] @ features[1].T - reference[0] @ reference[1].T
    delta = torch.stack([torch.cat([e[i, :i], e[i, i + 1 :]]) - e[i, i] for i in range(n)])
    p = torch.softmax(delta / 0.1, dim=1)
    torch.testing.assert_close(
        found.effective_sample_size, (1 / p.square().sum(1)).mean() / (n - 1), rtol=0, atol=1e-6
    )
    divergence = (p * (p * (n - 1)).log()).sum(1).mean()
    torch.testing.assert_close(found.divergence, divergence, rtol=0, atol=1e-6)
    assert float(found.delta_mean) == pytest.approx(float(delta.mean()))
    quantiles = torch.quantile(delta.flatten(), torch.tensor([0.05, 0.5, 0.95]).double())
    torch.testing.assert_close(found.delta_quantiles, quantiles)
    whole = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        whole[i, [j for j in range(n) if j != i]] = p[i]
    torch.testing.assert_close(found.weight, whole.sum(0), rtol=0, atol=1e-5)
    assert float(found.weight.mean()) == pytest.approx(1.0)
    assert torch.equal(found.index, index)
    assert loss(*features, *reference, index).steering is None
    assert GlobalContrastiveLoss(n)(*features, index).steering is None


def test_constant_temperature_has_no_parameter():
    loss = GlobalContrastiveLoss(4, temperature="constant", rho=99.0)
    assert list(loss.parameters()) == []
    assert "temperature.tau" in loss.state_dict()


def test_learned_temperature_settles_where_the_divergence_is_rho():
    """The stationary point of F in τ: KL(weights ‖ uniform) = ρ."""
    n, rho = 40, 1.5
    image, text = unit(n, 8), unit(n, 8, seed=1)
    loss = GlobalContrastiveLoss(n, tau=0.5, rho=rho, gamma=1.0).double()
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.01)
    for _ in range(2000):
        optimizer.zero_grad()
        loss(image, text, torch.arange(n)).loss.backward()
        optimizer.step()
    tau = loss.temperature.tau.detach()
    s = image @ text.T
    divergences = []
    for a in (s, s.T):
        for i in range(n):
            weights = torch.softmax(torch.cat([a[i, :i], a[i, i + 1 :]]) / tau, dim=0)
            divergences.append((weights * (weights * (n - 1)).log()).sum())
    assert float(torch.stack(divergences).mean()) == pytest.approx(rho, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n": 1}, "n=1"),
        ({"tau": 0.0}, "tau=0.0"),
        ({"tau": -1.0}, "tau=-1.0"),
        ({"tau": math.nan}, "tau=nan"),
        ({"rho": -0.1}, "rho=-0.1"),
        ({"gamma": 0.0}, "gamma=0.0"),
        ({"gamma": 1.1}, "gamma=1.1"),
        ({"epsilon": -1e-9}, "epsilon=-1e-09"),
        ({"epsilon": math.inf}, "epsilon=inf"),
        ({"rho": math.inf}, "rho=inf"),
        ({"tau": math.nextafter(0.01, 0)}, "tau=0.00999"),
        ({"tau": 1e39}, r"tau=1e\+39"),
        ({"temperature": "warm"}, "temperature='warm' is not one of constant, learnable, sep"),
    ],
)
def test_values_out_of_range(arguments, named):
    with pytest.raises(InvalidInput, match=named):
        GlobalContrastiveLoss(**{"n": 1000, **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {"n": 2, "rho": 0.0},
        {"tau": 0.01},
        {"tau": torch.finfo(torch.float32).max},
        {"gamma": 1.0},
        {"epsilon": 0.0},
    ],
)
def test_values_at_the_edge_of_their_range(arguments):
    n = arguments.get("n", 3)
    loss = GlobalContrastiveLoss(**{"n": n, **arguments})
    out = loss(unit(n, 3), unit(n, 3, seed=1), torch.arange(n))
    assert torch.isfinite(out.objective)


@pytest.mark.parametrize(("n", "rho"), [(2, 0.5), (4, math.log(3))])
def test_a_rho_of_the_largest_divergence_is_warned_of(n, rho):
    with pytest.warns(UserWarning, match=rf"not below log\(n−1\)={math.log(n - 1):.3g} for n={n}"):
        GlobalContrastiveLoss(n, rho=rho)


def test_a_rho_that_no_temperature_can_meet_is_warned_of():
    with pytest.warns(UserWarning, match="rho=8 is not below log"):
        DRRhoClipLoss(1000, temperature="learnable", rho=8.0)


def steps(loss: DRRhoClipLoss, n: int, batch: int, count: int) -> None:
    """Train τ alone, on n pairs that the target knows better than the reference does."""
    base = unit(n, 16)
    target = [normalize(base + 0.7 * unit(n, 16, seed=seed), dim=1) for seed in (1, 2)]
    reference = [normalize(base + unit(n, 16, seed=seed), dim=1) for seed in (3, 4)]
    optimizer = torch.optim.Adam(loss.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        index = torch.randperm(n, generator=generator)[:batch]
        optimizer.zero_grad()
        loss(*(each[index] for each in (*target, *reference)), index).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("gamma", [1.0, 0.8, 0.5, 0.2])
def test_the_default_rho_can_be_met_by_a_batch_of_a_large_dataset(gamma):
    """Half of log(n−1) could not, for n > (B−1)²."""
    n, batch = 400, 16
    loss = DRRhoClipLoss(n, gamma=gamma)
    steps(loss, n, batch, 600)
    assert float(loss.temperature.tau.detach()) > 0.05


def test_a_rho_that_a_batch_cannot_meet_drives_tau_to_its_floor():
    n, batch = 400, 16
    loss = DRRhoClipLoss(n, gamma=1.0, rho=math.log(n - 1) / 2)
    with pytest.warns(UserWarning, match=r"rho=2.99.* is not below log\(B−1\)=2.71 .* B=16 pairs"):
        steps(loss, n, batch, 300)
    assert float(loss.temperature.tau.detach()) < 0.015


def test_the_default_rho_is_a_third_of_a_batchs_largest_divergence():
    batch = unit(6, 4), unit(6, 4, seed=1), torch.arange(6)
    default, given = (GlobalContrastiveLoss(1000, rho=rho) for rho in (None, math.log(5) / 3))
    assert torch.equal(default(*batch).objective, given(*batch).objective)


@pytest.mark.parametrize(
    "arguments", [{"temperature": "constant"}, {"scaled": False}, {"rho": 1.0}, {"rho": 0.0}]
)
def test_a_rho_that_no_batch_can_meet_is_warned_of_once_and_where_it_matters(arguments):
    batch = unit(4, 3), unit(4, 3, seed=1), torch.arange(4)
    GlobalContrastiveLoss(1000, **{"rho": 5.0, **arguments})(*batch)
    loss = GlobalContrastiveLoss(1000, rho=5.0)
    with pytest.warns(UserWarning, match="a batch of B=4 pairs"):
        loss(*batch)
    loss(*batch)  # a second warning would be an error


def _with_nan(features: Tensor) -> Tensor:
    features = features.clone()
    features[1, 0] = math.nan
    return features


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda b: b | {"image": 2 * b["image"]}, "image features must be unit vectors.*norm 2"),
        (lambda b: b | {"text": _with_nan(b["text"])}, "text features hold NaN .* row 1"),
        (
            lambda b: b | {"reference_text": _with_nan(b["reference_text"])},
            "reference text features hold NaN",
        ),
        (lambda b: b | {"text": b["text"][:, :2]}, r"\[4, 3\] but text features are \[4, 2\]"),
        (lambda b: b | {"image": b["image"][0]}, r"\[B, d\], not torch.float64 \[3\]"),
        (
            lambda b: b | {"image": torch.eye(4, 3).long()},
            r"image features must be floating point \[B, d\], not torch.int64 \[4, 3\]",
        ),
        (lambda b: b | {"index": torch.tensor([0, 1, 2, 9])}, "index 9 is out of range.*n=9"),
        (lambda b: b | {"index": torch.tensor([0, 1, 2, -1])}, "index -1"),
        (lambda b: b | {"index": torch.tensor([0, 5, 2, 5])}, "index 5 comes 2 times"),
        (lambda b: b | {"index": torch.arange(3)}, r"int64 \[4\]"),
        (lambda b: b | {"index": torch.arange(4.0)}, "int64"),
        (
            lambda b: b | {k: b[k][:3] for k in ("reference_image", "reference_text")},
            "4 pairs, but reference features of 3",
        ),
        (lambda b: {k: v[:1] for k, v in b.items()}, "no negatives"),
    ],
)
def test_a_bad_batch_is_named_and_changes_nothing(change, named):
    loss = DRRhoClipLoss(9)
    good = {
        "image": unit(4, 3),
        "text": unit(4, 3, seed=1),
        "reference_image": unit(4, 5, seed=2),
        "reference_text": unit(4, 5, seed=3),
        "index": torch.tensor([0, 3, 5, 8]),
    }
    loss(**good)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    with pytest.raises(InvalidInput, match=named):
        loss(**change(good))
    assert all(torch.equal(before[name], value) for name, value in loss.state_dict().items())


@pytest.mark.parametrize("tau", [500.0, 1e6, 1e30])
@pytest.mark.parametrize("tile", [1, 30])
def test_the_own_pair_has_no_part_at_any_temperature(tau, tile):
    """All negatives weigh the same in the limit; a mask that leaks would count the own pair."""
    n = 7
    image, text = leaves(n, 4, 0)
    reference = unit(n, 3, seed=2), unit(n, 3, seed=3)
    loss = DRRhoClipLoss(n, tau=tau, temperature="individual", rho=0.5, epsilon=0.0).double()
    with torch.no_grad():
        loss.temperature.tau[::2] = 0.05  # beside small ones
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rhocache_trainer.loss.tiles._CPU_NUMBERS", tile)
        out = loss(image, text, *reference, torch.arange(n), steering=True)
    out.loss.backward()
    taus = loss.temperature.tau.detach().clone().requires_grad_()
    expected = objective(image, text, *reference, taus, 0.5, 0.0, scaled=True)
    gradients = torch.autograd.grad(expected, [image, text, taus])
    torch.testing.assert_close(out.objective, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(image.grad, gradients[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(text.grad, gradients[1], rtol=0, atol=1e-10)
    torch.testing.assert_close(
        loss.temperature.tau.grad.to_dense(), gradients[2], rtol=0, atol=1e-8
    )
    assert torch.isfinite(out.steering.effective_sample_size)
