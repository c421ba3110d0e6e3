"""An encoder that Ray has put into a queue of which it tells nobody is asked for anew."""

from collections.abc import Callable

import pytest
import ray

from rhocache_workers.cluster import actor_pool
from rhocache_workers.cluster.actor_pool import Crew
from rhocache_workers.cluster.nodes import node_of


def found(crew: Crew) -> tuple[list[bytes], list[bytes]]:
    """The encoders that have a node, and those that wait for one."""
    placed = [m.actor._actor_id.binary() for m in crew._members if m.place.node is not None]
    waiting = [m.actor._actor_id.binary() for m in crew._members if m.place.node is None]
    return placed, waiting


def test_one_that_waits_is_asked_for_anew_in_time(
    crew: Crew, follow: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    follow()
    placed, waiting = found(crew)
    assert (len(placed), len(waiting)) == (2, 1)
    follow()
    assert found(crew) == (placed, waiting), "not at every look"
    monkeypatch.setattr(actor_pool, "_ASK_AGAIN_SECONDS", 0.0)
    follow()
    placed_then, waiting_then = found(crew)
    assert placed_then == placed
    assert len(waiting_then) == 1
    assert waiting_then != waiting
    assert {ref: m for ref, m in crew._loading.items() if m not in crew._members} == {}


def test_one_that_has_started_is_left_alone(
    crew: Crew, follow: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an autoscaler has added a node, Ray may have put it there."""
    follow()
    for member in crew._members:
        if member.place.node is not None:
            ray.kill(member.actor)
    waits = next(member for member in crew._members if member.place.node is None)
    ray.get(waits.started)  # a core is free
    assert node_of(waits.actor) == ray.nodes()[0]["NodeID"]
    monkeypatch.setattr(actor_pool, "_ASK_AGAIN_SECONDS", 0.0)
    follow()
    assert found(crew)[1] == [waits.actor._actor_id.binary()]
