"""Who waits for any node, and is put on one by Ray, has that node's place."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from rhocache_workers.cluster.actor_pool import Crew
from rhocache_workers.cluster.members import Member
from rhocache_workers.cluster.placement import Place


class Neighbour:
    def ready(self) -> None: ...


@pytest.fixture
def neighbours(crew: Crew) -> Iterator[list[Any]]:
    """They have the two cores."""
    actors: list[Any] = [ray.remote(num_cpus=1)(Neighbour).remote() for _ in range(2)]
    ray.get([actor.ready.remote() for actor in actors])
    yield actors
    for actor in actors:
        ray.kill(actor)


def placed(crew: Crew) -> list[Member]:
    return [member for member in crew._members if member.place.node is not None]


@pytest.fixture
def member(crew: Crew, follow: Callable[[], None], neighbours: list[Any]) -> Member:
    """The one that any node will do for, which got a core before its node was seen."""
    follow()
    for each in placed(crew):
        crew._dismiss(each)
    ray.kill(neighbours[0])
    (left,) = crew._members
    ray.get(left.started)
    return left


def test_one_that_is_on_a_node_has_a_place_of_it(
    crew: Crew, follow: Callable[[], None], member: Member, neighbours: list[Any]
) -> None:
    follow()
    assert member in placed(crew)
    assert len(crew._members) == 3, "one of them waits for any node: an autoscaler sees it"
    assert len(placed(crew)) == 2
    ray.kill(neighbours[1])
    while not crew._started().issuperset(placed(crew)):  # whoever Ray lets have the other core
        follow()


def test_one_that_waits_for_its_place_is_asked_for_anew(
    crew: Crew, follow: Callable[[], None], member: Member
) -> None:
    """The node was seen after Ray had put another on it: two are for its last place."""
    for place in [place for place in crew._places.look() if place.node is not None]:
        crew._hire(place)
    late = [each for each in crew._members if each is not member]
    follow()
    assert member in placed(crew)
    assert sum(each in crew._members for each in late) == 1
    assert len(placed(crew)) == 2
    assert len(crew._members) == 3


def test_one_of_another_size_makes_way(
    crew: Crew, follow: Callable[[], None], member: Member
) -> None:
    member.place = crew._places._missing[0] = Place(None, 0.5, 0)
    follow()
    assert member not in crew._members
    assert len(placed(crew)) == 2


def test_those_that_wait_are_of_the_size_of_those_that_run(crew: Crew) -> None:
    """An autoscaler starts a node with a GPU for one that asks for it."""
    places = crew._places
    places._miss(2)
    places._smallest = Place("a node", 4, 1)
    places._miss(2)
    assert [place.size for place in places._missing] == [(4, 1), (4, 1)]
