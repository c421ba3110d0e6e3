"""Places the encoders of a run on the nodes of a Ray cluster, with their cores and GPUs."""

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rhocache_schemas.errors import JobError
from rhocache_workers.cluster.nodes import Leaving, leaving_nodes

Resources = Mapping[str, float]  # as Ray names them: "CPU", "GPU", ...

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Place:
    """What one encoder gets."""

    node: str | None  # its id; None is any that has room, which an autoscaler may have to start
    cores: float
    gpus: float

    @property
    def size(self) -> tuple[float, float]:
        return self.cores, self.gpus

    @property
    def threads(self) -> int:
        return max(1, int(self.cores))

    @property
    def options(self) -> dict[str, Any]:
        """Of the actor that takes this place."""
        options: dict[str, Any] = {"num_cpus": self.cores, "num_gpus": self.gpus}
        if self.node is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(self.node, soft=False)
        return options


class Places:
    """The places of a run's encoders, on nodes that come and go.

    A node is divided when it is first seen, and stays so: an encoder can't change its threads.
    ``workers`` None is one encoder a GPU, or one a node. Where the cluster ``grows``, an encoder
    has a core, and a GPU if there are any, to itself, and those that are too many for the nodes
    wait for others. Where it does not, they share.
    """

    def __init__(self, workers: int | None, *, grows: bool) -> None:
        self._workers = workers
        self._grows = grows
        self._home = ray.get_runtime_context().get_node_id()  # Ray ends what a dead node's runs own
        self.leaving: dict[str, Leaving] = {}  # by node
        self._found: dict[str, list[Place]] = {}  # by node
        self._missing: list[Place] = []
        self._smallest = Place(None, cores=1, gpus=0)
        self._told = False

    def look(self) -> list[Place]:
        """Return the places that nodes have now, and then those that they have no room for.

        Nodes that go away have none. ``leaving`` tells which those are.

        Raises JobError when the node that the run itself is on has died.
        """
        nodes = [node for node in ray.nodes() if node["Alive"]]
        alive = {node["NodeID"]: node["Resources"] for node in nodes}
        if self._home not in alive:
            raise JobError(
                "the Ray node that this run is on died, and its encoders with it: run it again "
                "to go on from the shards that are done"
            )
        self.leaving = leaving_nodes(nodes)
        staying = {node: has for node, has in alive.items() if node not in self.leaving}
        self._found = {node: places for node, places in self._found.items() if node in staying}
        found = [place for places in self._found.values() for place in places]
        new = {node: has for node, has in _usable(staying).items() if node not in self._found}
        most = None if self._workers is None else self._workers - len(found)
        for place in divide(new, most, grows=self._grows):
            self._found.setdefault(str(place.node), []).append(place)
            found.append(place)
        if found:
            self._smallest = min(found, key=lambda place: place.cores)
        elif not self._told:
            log.warning("no node of the Ray cluster has a core to give: waiting for one")
        self._told = not found
        self._miss((self._workers or 1) - len(found))
        return [*found, *self._missing]

    def _miss(self, count: int) -> None:
        alike = [place for place in self._missing if place.size == self._smallest.size]
        self._missing = alike[: max(0, count)]
        while len(self._missing) < count:
            self._missing.append(Place(None, *self._smallest.size))


def _usable(nodes: Mapping[str, Resources]) -> dict[str, Resources]:
    """Nodes that have a core, and a GPU if any of them has one."""
    gpus = any(has.get("GPU") for has in nodes.values())
    return {
        node: has for node, has in nodes.items() if has.get("CPU") and (has.get("GPU") or not gpus)
    }


def divide(nodes: Mapping[str, Resources], most: int | None, *, grows: bool) -> list[Place]:
    """Return each encoder's part of a node: encoders x threads = cores.

    More threads than cores only wait for one another.
    """
    counts: Counter[str] = Counter()
    if most is None:
        counts.update({node: int(has.get("GPU", 0)) or 1 for node, has in nodes.items()})
    for _ in range(most or 0):
        parts = {
            node: (has.get("GPU") or has["CPU"]) / (counts[node] + 1) for node, has in nodes.items()
        }
        roomiest = max(parts, key=lambda node: parts[node], default=None)
        if roomiest is None or (grows and counts[roomiest] and parts[roomiest] < 1):
            break
        counts[roomiest] += 1
    return [
        Place(
            node,
            _part(nodes[node]["CPU"], count),
            min(1.0, _part(nodes[node].get("GPU", 0), count)),
        )
        for node, count in counts.items()
        for _ in range(count)
    ]


def _part(whole: float, count: int) -> float:
    """A part that fits ``count`` times: Ray counts in 1e-4, but above one in wholes."""
    return int(whole / count) or math.floor(whole / count * 1e4) / 1e4
