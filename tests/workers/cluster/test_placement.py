"""How nodes are divided; how a crew follows nodes that come and go is in test_cluster.py."""

from collections import Counter

import pytest

from rhocache_workers.cluster.placement import Place, divide


def by_node(places: list[Place]) -> dict[str | None, tuple[int, int, float]]:
    """Node -> encoders, threads of each, GPUs of each."""
    counts = Counter(place.node for place in places)
    return {place.node: (counts[place.node], place.threads, place.gpus) for place in places}


BIG, SMALL = {"CPU": 8.0, "memory": 1e9}, {"CPU": 2.0}
GPUS = {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ({"a": BIG, "b": SMALL}, None, {"a": (1, 8, 0), "b": (1, 2, 0)}),
        ({"a": BIG, "b": SMALL}, 1, {"a": (1, 8, 0)}),
        ({"a": BIG, "b": SMALL}, 5, {"a": (4, 2, 0), "b": (1, 2, 0)}),
        ({"a": BIG, "b": SMALL}, 99, {"a": (8, 1, 0), "b": (2, 1, 0)}),  # a core for each
        ({"a": GPUS, "b": GPUS}, None, {"a": (2, 4, 1), "b": (2, 4, 1)}),
        ({"a": GPUS, "b": GPUS}, 2, {"a": (1, 8, 1), "b": (1, 8, 1)}),
        ({"a": GPUS}, 99, {"a": (2, 4, 1)}),  # a GPU for each
        ({"a": {"CPU": 0.5}}, 1, {"a": (1, 1, 0)}),
        ({}, None, {}),
        ({}, 3, {}),
    ],
)
def test_nodes_are_divided(nodes: dict, workers: int | None, expected: dict) -> None:
    assert by_node(divide(nodes, workers, grows=True)) == expected


@pytest.mark.parametrize(
    ("node", "workers", "cores", "expected"),
    [
        ({"CPU": 2.0}, 2, 1, (2, 1, 0)),
        ({"CPU": 1.0}, 3, 0.3333, (3, 1, 0)),
        ({"CPU": 8.0, "GPU": 1.0}, 2, 4, (2, 4, 0.5)),
        ({"CPU": 8.0, "GPU": 2.0}, 3, 2, (3, 2, 0.6666)),
    ],
)
def test_a_machine_that_can_not_grow_is_shared(
    node: dict, workers: int, cores: float, expected: tuple
) -> None:
    places = divide({"a": node}, workers, grows=False)
    assert by_node(places) == {"a": expected}
    assert {place.cores for place in places} == {cores}
