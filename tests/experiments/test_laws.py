"""Samples needed and power laws, where the truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.laws import power_law, samples_needed


def test_samples_needed_are_read_off_between_two_sizes() -> None:
    sizes = [1024, 2048, 4096, 8192]
    shares = np.array([[0.1, 0.1], [0.2, 0.2], [0.4, 0.4], [0.5, 0.5]])
    found = samples_needed(sizes, shares, np.array([0.3, 0.3]))
    assert found.value == pytest.approx(2048 * math.sqrt(2))
    assert found.low == found.high == pytest.approx(found.value)
    assert samples_needed(sizes, shares, np.array([0.05, 0.05])).value == 1024


def test_an_arm_that_never_comes_so_far_needs_no_number() -> None:
    found = samples_needed([1, 2], np.array([[0.1], [0.2]]), np.array([0.3]))
    assert math.isinf(found.value)
    assert str(found) == "more than 2"


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    sizes = [1000, 2000, 4000, 8000]
    truth = np.array([0.2, 0.3, 0.4, 0.5])
    covered = 0
    for _ in range(100):
        shares = truth[:, None] + random.normal(0, 0.02, (4, 10))
        found = samples_needed(sizes, shares, 0.35 + random.normal(0, 0.02, 10))
        covered += found.low <= 2000 * math.sqrt(2) <= found.high
    assert covered >= 85


def test_a_power_law_is_found_with_students_interval() -> None:
    amounts = np.array([1e9, 1e10, 1e11])
    slopes = np.array([-0.11, -0.12, -0.13])
    law = power_law(amounts, 5.0 * amounts[:, None] ** slopes)
    assert law.factor == pytest.approx(5.0)
    expected = stats.ttest_1samp(slopes, 0).confidence_interval(0.95)
    np.testing.assert_allclose(
        [law.exponent.value, law.exponent.low, law.exponent.high],
        [-0.12, expected.low, expected.high],
    )
