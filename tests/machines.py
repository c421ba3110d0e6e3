"""Machines for Ray's autoscaler, which are processes on this one."""

from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class Machines(FakeMultiNodeProvider):
    """One whose raylet has ended is gone, as with a cloud; Ray's own would count it for ever."""

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        with self.lock:
            for name, machine in list(self._nodes.items()):
                if "node" in machine and machine["node"].dead_processes():
                    self.terminate_node(name)
            found: Any = super().non_terminated_nodes(tag_filters)
            return found
