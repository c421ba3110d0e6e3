"""An encoder that Ray has put into a queue of which it tells nobody is asked for anew."""

from collections.abc import Iterator

import pytest
import ray

from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.cluster import actor_pool
from rhocache_workers.cluster.actor_pool import Crew
from rhocache_workers.cluster.nodes import node_of


@pytest.fixture
def crew(spec: ScoreSpec, ray_address: str) -> Iterator[Crew]:
    """Of three encoders, for a cluster that has room for two."""
    with Crew(spec.model_copy(update={"workers": 3}), ray_address, {}, lambda _: None) as crew:
        crew._follow(3)
        yield crew


def follow(crew: Crew) -> tuple[list[bytes], list[bytes]]:
    """The encoders that have a node, and those that wait for one, after another look at nodes."""
    crew._look_at = 0.0
    crew._follow(3)
    placed = [m.actor._actor_id.binary() for m in crew._members if m.place.node is not None]
    waiting = [m.actor._actor_id.binary() for m in crew._members if m.place.node is None]
    return placed, waiting


def test_one_that_waits_is_asked_for_anew_in_time(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed, waiting = follow(crew)
    assert (len(placed), len(waiting)) == (2, 1)
    assert follow(crew) == (placed, waiting), "not at every look"
    monkeypatch.setattr(actor_pool, "_ASK_AGAIN_SECONDS", 0.0)
    placed_then, waiting_then = follow(crew)
    assert placed_then == placed
    assert len(waiting_then) == 1
    assert waiting_then != waiting
    assert {ref: m for ref, m in crew._loading.items() if m not in crew._members} == {}


def test_one_that_has_started_is_left_alone(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an autoscaler has added a node, Ray may have put it there."""
    follow(crew)
    for member in crew._members:
        if member.place.node is not None:
            ray.kill(member.actor)
    waits = next(member for member in crew._members if member.place.node is None)
    ray.get(waits.started)  # a core is free
    assert node_of(waits.actor) == ray.nodes()[0]["NodeID"]
    monkeypatch.setattr(actor_pool, "_ASK_AGAIN_SECONDS", 0.0)
    assert follow(crew)[1] == [waits.actor._actor_id.binary()]
