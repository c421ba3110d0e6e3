"""What a selection keeps by the values of a column, and of each group of near-duplicates."""

import numpy as np
import numpy.typing as npt

from rhocache_schemas.job.kinds.select import Condition, End

Mask = npt.NDArray[np.bool_]


def within(values: npt.NDArray[np.floating], condition: Condition) -> Mask:
    """Which of the values [n] lie between a condition's ends, themselves included.

    Quantiles are of these values, by linear interpolation, but for those that are no number, which
    lie nowhere.
    """
    known = ~np.isnan(values)
    keep = known.copy()
    if known.any():
        low, high = (_bound(values[known], end) for end in (condition.low, condition.high))
        if low is not None:
            keep &= values >= low
        if high is not None:
            keep &= values <= high
    return keep


def best_of_groups(group: npt.NDArray[np.int64], similarity: npt.NDArray[np.floating]) -> Mask:
    """Keep of each group the pair that is most alike; of equal ones the first. Return [n].

    A pair of group −1 is in none, and is kept.
    """
    order = np.lexsort((np.arange(len(group)), -similarity, group))
    ordered = group[order]
    first = np.diff(ordered, prepend=-2) != 0
    keep = np.empty(len(group), np.bool_)
    keep[order] = first | (ordered < 0)
    return keep


def _bound(values: npt.NDArray[np.floating], end: End | None) -> float | None:
    if end is None or isinstance(end, float | int):
        return end
    return float(np.quantile(values, end.quantile))
