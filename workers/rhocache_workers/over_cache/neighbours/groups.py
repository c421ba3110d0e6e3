"""Near-duplicate groups: the connected components of the pairs that are near each other."""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


class Components:
    """A union-find over n numbers, 8 bytes each, that takes edges by the array."""

    def __init__(self, n: int) -> None:
        self._parent = np.arange(n)

    def join(self, one: Numbers, other: Numbers) -> None:
        """Put the two ends of each edge into one component."""
        while True:
            one, other = self._root(one), self._root(other)
            apart = one != other
            if not apart.any():
                return
            one, other = one[apart], other[apart]
            # A root gets the lowest of its neighbours' roots: no circle can come of lower ones.
            np.minimum.at(self._parent, np.maximum(one, other), np.minimum(one, other))

    def groups(self) -> tuple[Numbers, Numbers]:
        """Return the numbers that have others in their component, and the group of each, from 0 on.

        Both [m], by group and then number; groups are in the order of their lowest numbers.
        """
        root = self._root(np.arange(len(self._parent)))
        members = np.flatnonzero(np.bincount(root, minlength=len(root))[root] > 1)
        _, group = np.unique(root[members], return_inverse=True)
        order = np.lexsort((members, group))
        return members[order], group[order]

    def _root(self, numbers: Numbers) -> Numbers:
        start = numbers
        while True:
            above = self._parent[numbers]
            if (above == numbers).all():
                self._parent[start] = numbers  # shorter ways for the next time
                return numbers
            numbers = above
