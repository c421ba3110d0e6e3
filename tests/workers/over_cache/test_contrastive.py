"""Global contrastive losses against their definition, in float64 with the whole matrix at hand."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from caches import commit

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import JobError
from rhocache_schemas.job.kinds.losses import LossesSpec
from rhocache_schemas.table.reader import TableReader
from rhocache_workers.over_cache import log_mean_exp
from rhocache_workers.over_cache.contrastive import Losses
from rhocache_workers.over_cache.driver import make_table
from rhocache_workers.over_cache.log_mean_exp import RowSums
from rhocache_workers.over_cache.sample import draw

from .test_table import shard_rows

Matrix = npt.NDArray[np.float64]


def defined(image: Matrix, text: Matrix, tau: float) -> Matrix:
    """log (1/n) Σ_j exp((s_ij − s_ii) / τ) of each image i over all texts j."""
    exponents = (image @ text.T - (image * text).sum(1)[:, None]) / tau
    largest = exponents.max(1)
    return largest + np.log(np.exp(exponents - largest[:, None]).mean(1))


def columns(output: str | Path) -> Mapping[str, Matrix]:
    table = TableReader.open(str(output))
    names = [column.name for column in table.manifest.columns]
    found = table.as_table(names).drop_null()
    return {name: found[name].to_numpy() for name in names}


@pytest.mark.parametrize("tau", [None, 0.02, 1.0, 0.0199, 0.01, 1e-3, 1e-30])
def test_exact(
    icons: str, embeddings: tuple[Matrix, Matrix], tmp_path: Path, tau: float | None
) -> None:
    """At the reference's own temperature, and at ones that overflow float32."""
    spec = LossesSpec(cache=icons, output=str(tmp_path / "table"), tau=tau)
    made = make_table(spec, Losses, here=True)
    assert made.rows == 1024, "a row a pair, of those without embeddings too"
    found = columns(spec.output)
    image, text = embeddings
    assert len(image) == 300
    tau = tau or 1 / CacheReader.open(icons).manifest.logit_scale
    for name, expected in (
        ("image_loss", defined(image, text, tau)),
        ("text_loss", defined(text, image, tau)),
    ):
        assert found[name] == pytest.approx(expected, abs=1e-5, rel=1e-9)
    assert found["loss"] == pytest.approx((found["image_loss"] + found["text_loss"]) / 2)


def test_tiles_and_groups_change_nothing_but_rounding(
    icons: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_table(LossesSpec(cache=icons, output=f"{tmp_path}/a"), Losses, here=True)
    monkeypatch.setitem(log_mean_exp.TILES, "cpu", (7, 13))
    tiled = make_table(LossesSpec(cache=icons, output=f"{tmp_path}/b"), Losses, here=True)
    assert whole.rows == tiled.rows
    assert columns(tmp_path / "b")["loss"] == pytest.approx(
        columns(tmp_path / "a")["loss"], abs=1e-5
    )


def test_estimates_are_unbiased() -> None:
    """Over every sample that could be drawn the mean of exp(loss) is the exact one."""
    generator = np.random.default_rng(0)
    n, size, tau = 7, 4, 0.5
    image, text = (generator.normal(size=(n, 5)) / 3 for _ in range(2))
    own = (image * text).sum(1)
    rows, every = torch.from_numpy(image).float(), torch.from_numpy(text).float()
    means = []
    for drawn in combinations(range(n), size):
        sums = RowSums(rows, own, tau, squares=True)
        sums.add(every[list(drawn)], np.array(drawn), np.arange(size))
        sampled = size - np.isin(np.arange(n), drawn).astype(float)
        losses, _ = sums.estimates(n, sampled)
        means.append(np.exp(losses))
    assert np.mean(means, axis=0) == pytest.approx(np.exp(defined(image, text, tau)), rel=1e-5)


def test_intervals_cover_the_exact_losses(tmp_path: Path) -> None:
    """95 % of them where the exponents have no long tail; of the mean of both sides, more."""
    shards = {f"{number}.tar": shard_rows(500, number) for number in range(4)}
    cache = commit(tmp_path / "cache", shards)
    image, text = (
        np.concatenate([getattr(rows, side)[:, 0] for rows in shards.values()]).astype(float)
        for side in ("image", "text")
    )
    tau = 0.5
    exact = {"image_": defined(image, text, tau), "text_": defined(text, image, tau)}
    exact[""] = (exact["image_"] + exact["text_"]) / 2
    covered = {side: [] for side in exact}
    for seed in range(4):
        spec = LossesSpec(
            cache=str(cache), output=f"{tmp_path}/{seed}", tau=tau, sample=300, seed=seed
        )
        make_table(spec, Losses, here=True)
        found = columns(spec.output)
        for side, losses in exact.items():
            inside = (found[f"{side}low"] <= losses) & (losses <= found[f"{side}high"])
            covered[side].append(inside.mean())
    assert np.mean(covered["image_"]) == pytest.approx(0.95, abs=0.02)
    assert np.mean(covered["text_"]) == pytest.approx(0.95, abs=0.02)
    assert np.mean(covered[""]) > 0.95


def test_a_sample_of_all_is_exact(icons: str, tmp_path: Path) -> None:
    make_table(LossesSpec(cache=icons, output=f"{tmp_path}/all"), Losses, here=True)
    spec = LossesSpec(cache=icons, output=f"{tmp_path}/sample", sample=300)
    make_table(spec, Losses, here=True)
    found = columns(spec.output)
    assert (found["loss"] == columns(tmp_path / "all")["loss"]).all()
    assert (found["low"] == found["high"]).all()


def test_what_is_drawn() -> None:
    """Each pair as often as any, the same ones for a seed, and without one twice."""
    usable = {"a": 3, "b": 0, "c": 5}
    assert draw(usable, 4, 1)["a"].tolist() == draw(usable, 4, 1)["a"].tolist()
    times = np.zeros(8)
    for seed in range(1000):
        drawn = draw(usable, 4, seed)
        places = np.concatenate([drawn["a"], drawn["b"], 3 + drawn["c"]])
        assert len(set(places.tolist())) == 4
        times[places] += 1
    assert times == pytest.approx(np.full(8, 500), abs=80)  # five standard deviations


def test_no_pair_is_usable(tmp_path: Path) -> None:
    cache = commit(tmp_path / "cache", {"a.tar": shard_rows(2, 0, failed=2)})
    with pytest.raises(JobError, match=f"{cache} has no usable pair"):
        make_table(LossesSpec(cache=str(cache), output=f"{tmp_path}/t"), Losses, here=True)


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_is_positive(tau: float) -> None:
    with pytest.raises(ValueError, match="tau"):
        LossesSpec(cache="c", output="o", tau=tau)
