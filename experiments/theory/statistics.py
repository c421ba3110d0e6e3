"""Means over seeds and slopes in log-log space, with bootstrapped 95% bands."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000


def bands(sizes: Array, values: Array) -> tuple[Array, Array]:
    """Of ``values`` [seeds, sizes]: mean, low and high, [3, sizes]; and so for the slope, [3].

    The slope is that of log mean value against log size, and is resampled with its whole curve.
    """
    seeds = len(values)
    chosen = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    means = values[chosen].mean(axis=1)  # [RESAMPLES, sizes]
    mean = values.mean(axis=0)
    slopes = np.polyfit(np.log(sizes), np.log(means).T, 1)[0]
    slope = np.polyfit(np.log(sizes), np.log(mean), 1)[0]
    return (
        np.stack([mean, *np.percentile(means, (2.5, 97.5), axis=0)]),
        np.array([slope, *np.percentile(slopes, (2.5, 97.5))]),
    )
