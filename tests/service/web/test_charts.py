"""Where a chart's ticks and points lie, and what times and sizes look like."""

import pytest

from rhocache_service.web.charts import line, ticks, time_ticks
from rhocache_service.web.render import duration, size


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 1000, ["0", "200", "400", "600", "800", "1,000"]),
        (0.011, 0.489, ["0.1", "0.2", "0.3", "0.4"]),
        (-0.2, 0.2, ["-0.2", "-0.1", "0.0", "0.1", "0.2"]),
        (5, 5, []),
    ],
)
def test_ticks_are_at_round_numbers(low: float, high: float, labels: list[str]) -> None:
    assert [tick.label for tick in ticks(low, high)] == labels


def test_what_is_counted_has_no_parts() -> None:
    assert [tick.label for tick in ticks(0, 1, least=1)] == ["0", "1"]
    assert [tick.label for tick in ticks(0, 3, least=1)] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("seconds", "last"),
    [(8, "8 s"), (90, "90 s"), (600, "10 min"), (5000, "60 min"), (90_000, "24 h"), (9e5, "9 d")],
)
def test_times_have_the_unit_that_suits_them(seconds: float, last: str) -> None:
    found = time_ticks(seconds)
    assert found[-1].label == last
    assert 2 <= len(found) <= 7


def test_a_curve_spans_its_plot_and_leaves_out_what_is_no_number() -> None:
    drawn = line([10, 20, 30], [0.0, float("nan"), 100.0], zero=True)
    assert drawn is not None
    assert drawn.points == "0.00,100.00 100.00,7.41"
    assert line([1], [1.0], zero=True) is None
    flat = line([0, 1], [3.0, 3.0], zero=False)
    assert flat is not None
    assert flat.points == "0.00,100.00 100.00,100.00"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "0 s"), (59, "59 s"), (75, "1 min 15 s"), (3900, "1 h 05 min"), (90_000, "1 d 01 h")],
)
def test_durations(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_sizes() -> None:
    assert [size(each) for each in (12, 1500, 2.5e9, 3e13)] == [
        "12 bytes",
        "1.5 kB",
        "2.5 GB",
        "30.0 TB",
    ]
