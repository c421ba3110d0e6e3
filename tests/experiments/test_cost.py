"""Totals and the break-even of steps whose times are known, and the page that tells them."""

from pathlib import Path

import pytest

from experiments import pages
from experiments.cost import page
from experiments.cost.cost import Cost

# A step without a reference takes 10 ms a pair, by the cache 11, live 15; to score a pair takes 6.
KNOWN = Cost(
    target="target", reference="reference", batch=8, machine="this one",
    plain=[0.009, 0.010, 0.011], cached=[0.0099, 0.011, 0.0121], live=[0.0135, 0.015, 0.0165],
    scoring=[0.005, 0.006, 0.007], stored=2112.0,
)  # fmt: skip


def test_the_cache_pays_once_its_scoring_is_earned() -> None:
    assert KNOWN.total(1, "cached") == pytest.approx(0.6 + 1.1)
    assert KNOWN.total(8, "live") == pytest.approx(8 * 1.5)
    assert KNOWN.break_even == pytest.approx(6 / (15 - 11))
    epochs = KNOWN.break_even
    assert KNOWN.total(epochs, "cached") == pytest.approx(KNOWN.total(epochs, "live"))


def test_the_page_says_it(tmp_path: Path) -> None:
    page.write(tmp_path, pages.environment(), [KNOWN])
    said = (tmp_path / "cost.md").read_text()
    assert "the cache pays from\n  1.5 epochs on" in said
    assert (
        "| target by reference | 10.00 ms | 11.00 ms | 15.00 ms | 6.00 ms | 1.70 / 1.50 |" in said
    )
    assert "target by reference, live" in (tmp_path / "cost.svg").read_text()
