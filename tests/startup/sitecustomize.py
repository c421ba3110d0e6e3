"""Read by every Python process that tests start: they import torch, and end seconds later.

The collector would walk all that was imported many times over, and once more at the end: a third of
what such a process costs.
"""

import atexit
import gc

gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)
