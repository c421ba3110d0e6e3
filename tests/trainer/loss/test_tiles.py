"""Sums over parts of the matrix, as each rank takes them, against the whole matrix at once."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from rhocache_trainer.loss import diagnostics, tiles
from rhocache_trainer.loss.tiles import LogSums, Side

B, D = 9, 4
PARTS = [(0, B), (0, 4), (4, B), (2, 3)]


@pytest.fixture(params=[1, 2 * B, 1000], autouse=True)
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Tiles of one row, of two rows and of all; gives the rows."""
    monkeypatch.setattr(tiles, "_CPU_NUMBERS", request.param)
    return {1: 1, 2 * B: 2, 1000: B}[request.param]


def features(seed: int, width: int = D) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(B, width, generator=generator, dtype=torch.float64), dim=1)


@pytest.fixture(params=[0, 1, 3])
def sides(request: pytest.FixtureRequest) -> tuple[Side, Side]:
    """Images and texts, with so many references; each anchor has a τ of its own."""
    image, text = (
        Side(
            features(seed),
            tuple(features(seed + 2 + 2 * k, 3 + k) for k in range(request.param)),
            torch.linspace(0.1, 0.4 + seed, B, dtype=torch.float64),
        )
        for seed in (0, 1)
    )
    return image, text


def residuals(sides: tuple[Side, Side]) -> Tensor:
    """e_ij, the own pairs' included."""
    image, text = sides
    e = image.features @ text.features.T
    each = [a @ b.T for a, b in zip(image.reference, text.reference, strict=True)]
    return e - torch.stack(each).amin(0) if each else e


def exponents(e: Tensor, tau: Tensor) -> Tensor:
    """d_ij of anchors along rows; −∞ for own pairs."""
    return ((e - e.diagonal()[:, None]) / tau[:, None]).fill_diagonal_(-math.inf)


@pytest.mark.parametrize(("start", "stop"), PARTS)
def test_log_sums(sides: tuple[Side, Side], start: int, stop: int) -> None:
    image, text = sides
    e = residuals(sides)
    own = tiles.own_residuals(image, text)
    torch.testing.assert_close(own, e.diagonal())
    of_rows, of_columns = tiles.log_sums(image, text, own, start, stop)
    by_row = exponents(e, image.tau)[start:stop]
    by_column = exponents(e.T, text.tau)[:, start:stop]
    for sums, d in ((of_rows, by_row), (of_columns, by_column)):
        some = torch.isfinite(d).any(1)  # a column may have its own pair alone here
        torch.testing.assert_close(sums.log[some], d.logsumexp(1)[some])
        weights = torch.softmax(d[some], 1)
        moments = torch.where(weights > 0, weights * d[some], 0.0).sum(1)
        torch.testing.assert_close(sums.mean[some], moments)
        assert (sums.log[~some] == -math.inf).all()


def test_sums_of_parts_merge_to_those_of_all(sides: tuple[Side, Side]) -> None:
    image, text = sides
    own = tiles.own_residuals(image, text)
    _, whole = tiles.log_sums(image, text, own, 0, B)
    parts = [tiles.log_sums(image, text, own, *part)[1] for part in ((0, 1), (1, 7), (7, B))]
    sent = [LogSums.unstacked(part.stacked()) for part in parts]
    merged = sent[0].merged(sent[1]).merged(sent[2])
    torch.testing.assert_close(merged.log, whole.log)
    torch.testing.assert_close(merged.mean, whole.mean)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("start", "stop"), PARTS)
def test_weighted_sums(sides: tuple[Side, Side], start: int, stop: int, both: bool) -> None:
    image, text = sides
    e = residuals(sides)
    row_shift, column_shift = torch.linspace(-1, 1, B).double(), torch.linspace(2, -1, B).double()
    weights = (exponents(e, image.tau) - row_shift[:, None]).exp()
    weights = weights + (exponents(e.T, text.tau) - column_shift[:, None]).exp().T
    weights = weights[start:stop]
    of_rows, of_columns = tiles.weighted_sums(
        image, text, e.diagonal(), row_shift, column_shift, start, stop, both=both
    )
    torch.testing.assert_close(of_rows, weights @ text.features)
    if both:
        torch.testing.assert_close(of_columns, weights.T @ image.features[start:stop])
    else:
        assert of_columns is None


@pytest.mark.parametrize("sample", [10, 100_000])
@pytest.mark.parametrize(("start", "stop"), PARTS)
def test_steering_of_a_part(
    sides: tuple[Side, Side],
    tile: int,
    start: int,
    stop: int,
    sample: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diagnostics, "_SAMPLE", sample)
    image, text = sides
    e = residuals(sides)
    d = exponents(e, image.tau)
    log_inner = torch.linspace(-3, 5, B, dtype=torch.float64)
    found = diagnostics.explain(
        image, text, e.diagonal(), d.logsumexp(1), log_inner, torch.arange(B), start, stop
    )
    p = torch.softmax(d, 1)[start:stop]
    sizes = 1 / p.square().sum(1) / (B - 1)
    torch.testing.assert_close(found.effective_sample_size, sizes.mean())
    torch.testing.assert_close(
        found.divergence, math.log(B - 1) + torch.special.xlogy(p, p).sum(1).mean()
    )
    torch.testing.assert_close(found.log_u_mean, log_inner.mean())
    torch.testing.assert_close(found.weight, p.sum(0) * B / (stop - start))
    others = [torch.cat([e[i, :i], e[i, i + 1 :]]) - e[i, i] for i in range(start, stop)]
    torch.testing.assert_close(found.delta_mean, torch.cat(others).mean())
    looked_at = torch.cat(others[:tile])  # the first tile's alone, so that memory stays bounded
    looked_at = looked_at[:: max(1, len(looked_at) // sample)]
    quantiles = torch.quantile(looked_at, looked_at.new_tensor([0.05, 0.5, 0.95]))
    torch.testing.assert_close(found.delta_quantiles, quantiles)
    assert diagnostics.numbers(found) == {
        "effective_sample_size": float(found.effective_sample_size),
        "divergence": float(found.divergence),
        "log_u_mean": float(found.log_u_mean),
        "delta_mean": float(found.delta_mean),
        "delta_p05": pytest.approx(float(quantiles[0])),
        "delta_p50": pytest.approx(float(quantiles[1])),
        "delta_p95": pytest.approx(float(quantiles[2])),
    }
