"""What follows from several points of a study: samples needed, and power laws, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95% interval; infinity stands for more than ``limit``."""

    value: float
    low: float
    high: float
    digits: int = 0
    limit: float = math.inf

    def __str__(self) -> str:
        value, low, high = map(self._told, (self.value, self.low, self.high))
        return value if low == high else f"{value} ({low} to {high})"

    def _told(self, number: float) -> str:
        if math.isinf(number):
            return f"more than {self.limit:,.0f}"
        return f"{number:,.{self.digits}f}"


def samples_needed(
    sizes: Sequence[int], shares: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]
) -> Interval:
    """The number of samples at which an arm reaches what another one does with all of them.

    Between sizes the mean over seeds is linear in the logarithm of the size. The interval is of
    means over seeds that are drawn with replacement, the same for both arms.

    Args:
        sizes: [k], ascending.
        shares: [k, seeds], the arm's.
        wanted: [seeds], the other's at the largest size.

    The value is infinite where the arm does not come so far.
    """
    random = np.random.default_rng(0)
    seeds = shares.shape[1]
    drawn = random.integers(seeds, size=(RESAMPLES, seeds))
    found = [_crossing(sizes, shares[:, each].mean(1), wanted[each].mean()) for each in drawn]
    low, high = np.percentile(found, [2.5, 97.5], method="nearest")
    value = _crossing(sizes, shares.mean(1), wanted.mean())
    return Interval(value, float(low), float(high), limit=sizes[-1])


def _crossing(sizes: Sequence[int], means: npt.NDArray[np.float64], wanted: float) -> float:
    logs = np.log2(sizes)
    for left in range(len(sizes)):
        if means[left] >= wanted:
            if left == 0:
                return float(sizes[0])
            part = (wanted - means[left - 1]) / (means[left] - means[left - 1])
            return float(2 ** (logs[left - 1] + part * (logs[left] - logs[left - 1])))
    return math.inf


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """error = factor * amount ** exponent."""

    factor: float
    exponent: Interval


def power_law(amounts: npt.NDArray[np.float64], errors: npt.NDArray[np.float64]) -> PowerLaw:
    """Fit log error by log amount, for each seed; the interval is Student's, over seeds.

    Args:
        amounts: [k]. errors: [k, seeds].
    """
    slopes, heights = np.polynomial.polynomial.polyfit(np.log(amounts), np.log(errors), 1)[::-1]
    mean, n = float(slopes.mean()), len(slopes)
    half = float(stats.t.ppf(0.975, n - 1) * slopes.std(ddof=1) / n**0.5) if n > 1 else float("nan")
    return PowerLaw(float(np.exp(heights.mean())), Interval(mean, mean - half, mean + half, 3))
