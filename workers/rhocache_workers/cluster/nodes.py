"""What Ray tells of nodes beyond its public calls: where an actor is, and which nodes go away.

A node is drained where an autoscaler or ``ray drain-node`` says so, or its ``ray start --block``
gets SIGTERM (Ray 2.60 and newer): it takes no new work, and what is on it goes on until it is gone.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ray._private.state import state


@dataclass(frozen=True, slots=True)
class Leaving:
    name: str  # of the node's host
    gone_at: float  # Unix seconds; infinite where nobody has said


def leaving_nodes(nodes: Iterable[Mapping[str, Any]]) -> dict[str, Leaving]:
    """Return those of the living nodes that go away, by their ids."""
    until = state.get_draining_nodes()  # milliseconds, 0 where nobody has said
    return {
        node["NodeID"]: Leaving(
            node["NodeManagerHostname"], until[node["NodeID"]] / 1000 or math.inf
        )
        for node in nodes
        if node["NodeID"] in until
    }


def node_of(actor: Any) -> str:
    """Return the id of the node that a living actor is on."""
    told: Any = state.actor_table(actor._actor_id.hex())
    return told["Address"]["NodeID"]
