"""A crew of encoders that looks at its cluster's nodes when a test says so."""

from collections.abc import Callable, Iterator

import pytest

from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.cluster.actor_pool import Crew


@pytest.fixture
def crew(spec: ScoreSpec, ray_address: str) -> Iterator[Crew]:
    """Of three encoders, for a cluster with two cores."""
    with Crew(spec.model_copy(update={"workers": 3}), ray_address, {}, lambda _: None) as crew:
        yield crew


@pytest.fixture
def follow(crew: Crew) -> Callable[[], None]:
    """Let it look at the nodes, whenever it last did."""

    def look() -> None:
        crew._look_at = 0.0
        crew._follow(3)

    return look
