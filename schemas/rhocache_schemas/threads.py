"""Threads of torch that share the machine's cores with other work."""

import os

# About what a thread needs for the next piece of work to come while a model is small. libgomp's own
# is 300 times that. Measured with two threads on two cores, in pairs a second of a small CLIP: 720
# against 648 to 702 on a quiet machine, and 133 against 40 beside six busy processes.
_SPINS = "1000"


def wait_briefly() -> None:
    """Have threads of torch that wait for work soon leave their core to others. Before its import.

    Whoever sets OMP_WAIT_POLICY or GOMP_SPINCOUNT has it so. Processes that are started from here
    on do the same.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
