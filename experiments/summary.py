"""Means over seeds with 95% intervals, and differences between arms that are paired by seed."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from experiments.study import AS_IT_IS, Outcome, Value

Point = tuple[tuple[str, Value], ...]  # of the grid
Place = tuple[str | None, Point, str]  # reference, point, arm


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds, in percent."""

    mean: float
    half_width: float  # of its 95% interval, by Student's t; NaN for a single seed
    deviation: float  # of single seeds
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.seeds < 2 else f"{self.mean:.1f} ± {self.half_width:.1f}"


def estimate(shares: Iterable[float]) -> Estimate:
    values = 100 * np.array(list(shares))
    n = len(values)
    if n < 2:
        return Estimate(float(values[0]), float("nan"), float("nan"), n)
    deviation = float(values.std(ddof=1))
    half_width = float(stats.t.ppf(0.975, n - 1)) * deviation / n**0.5
    return Estimate(float(values.mean()), half_width, deviation, n)


class Summary:
    """The outcomes of a study by where they stand in it."""

    def __init__(self, outcomes: Sequence[Outcome], baseline: str) -> None:
        self.baseline = baseline
        self._found: dict[Place, dict[int, Outcome]] = defaultdict(dict)
        for outcome in outcomes:
            trial = outcome.trial
            place = trial.reference, tuple(trial.point.items()), trial.arm
            self._found[place][trial.seed] = outcome

    @property
    def places(self) -> list[Place]:
        return list(self._found)

    @property
    def points(self) -> list[Point]:
        return list(dict.fromkeys(point for _, point, arm in self._found if arm != AS_IT_IS))

    @property
    def references(self) -> list[str]:
        """Those that were used, or evaluated as they are."""
        found = (reference for reference, _, _ in self._found if reference is not None)
        return list(dict.fromkeys(found))

    @property
    def arms(self) -> list[str]:
        """Those that were trained."""
        return list(dict.fromkeys(arm for _, _, arm in self._found if arm != AS_IT_IS))

    def outcomes(self, place: Place) -> dict[int, Outcome]:
        """By seed, of an arm; one that uses no reference has the same with each."""
        reference, point, arm = place
        return self._found.get((reference, point, arm)) or self._found.get((None, point, arm), {})

    def shares(self, place: Place, measure: str) -> dict[int, float]:
        return {seed: each.measures[measure] for seed, each in self.outcomes(place).items()}

    def complete(self, places: Sequence[Place], measure: str) -> npt.NDArray[np.float64]:
        """The shares of places, [places, seeds], of the seeds that are done at all of them."""
        found = [self.shares(place, measure) for place in places]
        seeds = sorted(set[int].intersection(*(set(each) for each in found)))
        return np.array([[each[seed] for seed in seeds] for each in found])

    def at(self, place: Place, measure: str) -> Estimate | None:
        found = self.shares(place, measure)
        return estimate(found.values()) if found else None

    def difference(self, place: Place, measure: str) -> Estimate | None:
        """From the baseline at the same point, over the seeds that both have."""
        reference, point, _ = place
        ours = self.shares(place, measure)
        theirs = self.shares((reference, point, self.baseline), measure)
        both = sorted(ours.keys() & theirs.keys())
        return estimate(ours[seed] - theirs[seed] for seed in both) if both else None
