"""Groups against SciPy's connected components."""

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rhocache_workers.over_cache.neighbours.groups import Components

N = 1000


@pytest.mark.parametrize("edges", [0, 30, 400, 900])
def test_groups_are_the_connected_components(edges: int) -> None:
    random = np.random.default_rng(edges)
    one, other = random.integers(0, N, (2, edges))
    components = Components(N)
    for part in np.array_split(np.arange(edges), 7):
        components.join(one[part], other[part])
    members, group = components.groups()
    _, label = connected_components(coo_array((np.ones(edges), (one, other)), (N, N)), False)
    expected = [set(np.flatnonzero(label == each)) for each in np.unique(label)]
    found = [set(members[group == each]) for each in range(len(np.unique(group)))]
    assert found == sorted((each for each in expected if len(each) > 1), key=min)


def test_a_long_chain_is_one_group() -> None:
    components = Components(N)
    order = np.random.default_rng(0).permutation(N)
    components.join(order[:-1], order[1:])
    members, group = components.groups()
    assert members.tolist() == list(range(N))
    assert not group.any()
