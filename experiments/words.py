"""What a study's sentences are made of: every number in them comes from its outcomes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.compute import errors_by_compute
from experiments.laws import Interval, power_law, samples_needed
from experiments.study import AS_IT_IS, Study, Value
from experiments.summary import Estimate, Place, Summary


class Words:
    """The functions that templates may call; values of the grid say at which point."""

    def __init__(self, study: Study, summary: Summary) -> None:
        self._study = study
        self._measure = study.measure
        self._summary = summary

    def known(self) -> dict[str, Callable[..., Any]]:
        return {
            "at": self.at,
            "gain": self.gain,
            "needed": self.needed,
            "exponent": self.exponent,
            "best": self.best,
        }

    def at(self, arm: str, measure: str | None = None, **values: Value) -> Estimate:
        found = self._summary.at(self._place(arm, values), measure or self._measure)
        assert found is not None, f"no outcome of {arm} at {values}"
        return found

    def gain(self, arm: str, measure: str | None = None, **values: Value) -> Estimate:
        """Over the baseline."""
        found = self._summary.difference(self._place(arm, values), measure or self._measure)
        assert found is not None, f"nothing to compare {arm} with at {values}"
        return found

    def needed(self, arm: str, measure: str | None = None, **values: Value) -> Interval:
        """Samples, along the grid's first axis, for the baseline's quality with all of them."""
        measure, axis = measure or self._measure, next(iter(self._study.grid))
        sizes = [int(size) for size in self._study.grid[axis]]
        places = [self._place(arm, values | {axis: size}) for size in sizes]
        places.append(self._place(self._summary.baseline, values | {axis: sizes[-1]}))
        *shares, wanted = self._summary.complete(places, measure)
        return samples_needed(sizes, np.array(shares), wanted)

    def exponent(self, arm: str) -> Interval:
        """Of the power law of error by compute."""
        points = self._summary.points
        return power_law(*errors_by_compute(self._study, self._summary, arm, points)).exponent

    def best(self, arm: str, measure: str | None = None) -> str:
        """The value on the grid's first axis with which an arm does best."""
        axis = next(iter(self._study.grid))
        values = self._study.grid[axis]
        return str(max(values, key=lambda value: self.at(arm, measure, **{axis: value}).mean))

    def _place(self, arm: str, values: dict[str, Value]) -> Place:
        values = dict(values)
        reference = str(values.pop("reference", next(iter(self._summary.references), "")))
        points = [()] if arm == AS_IT_IS else self._summary.points
        chosen = (point for point in points if values.items() <= dict(point).items())
        return reference, next(chosen), arm
