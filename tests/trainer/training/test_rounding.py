"""When the trainer warns of a cache's rounding."""

import logging
from pathlib import Path

import pytest

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.summary import Rounding, ShardRounding
from rhocache_trainer.training.rounding import BOUND, RoundingWatch


@pytest.mark.parametrize(
    ("p99", "taus", "told"),
    [
        (1e-3, [0.07, 0.03, 0.0201], 0),
        (1e-3, [0.07, 0.019, 0.01], 1),  # once, when τ has fallen
        (9e-5, [0.01], 0),  # float16 at the smallest τ
        (0.0, [0.01], 0),
        (None, [0.01], 0),  # a cache of format 1
    ],
)
def test_it_warns_once_and_at_the_trainings_own_temperature(
    cache: Path, caplog: pytest.LogCaptureFixture, p99: float | None, taus: list[float], told: int
) -> None:
    manifest = Manifest.read(f"{cache}/manifest.json")
    rounding = None if p99 is None else Rounding.of([ShardRounding(9, p99 / 3, p99, 2 * p99)])
    watch = RoundingWatch([manifest.model_copy(update={"rounding": rounding})])
    with caplog.at_level(logging.WARNING):
        watch.look(None)
        for tau in taus:
            watch.look(tau)
    assert len(caplog.records) == told
    if told:
        assert p99 is not None
        assert f"τ ≥ {p99 / BOUND:.2g}" in caplog.text


def test_without_a_cache_there_is_nothing_to_warn_of(caplog: pytest.LogCaptureFixture) -> None:
    RoundingWatch([]).look(0.01)
    assert not caplog.records
