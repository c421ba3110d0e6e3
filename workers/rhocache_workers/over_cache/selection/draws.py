"""Random numbers that are a function of a seed alone, on every machine and version of numpy."""

import numpy as np
import numpy.typing as npt


def priorities(n: int, seed: int, stream: int) -> npt.NDArray[np.uint64]:
    """Return n numbers, [n], of one of a seed's streams."""
    return np.random.PCG64(np.random.SeedSequence((seed, stream))).random_raw(n)


def permutation(n: int, seed: int, stream: int) -> npt.NDArray[np.int64]:
    """Return the numbers from 0 to n − 1 in a random order, [n]."""
    return np.argsort(priorities(n, seed, stream), kind="stable")
