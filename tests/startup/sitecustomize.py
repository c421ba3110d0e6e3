"""Read by every Python process that tests start: they import torch, and end seconds later."""

import atexit
import gc
import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

# The collector would walk all that was imported many times over, and once more at the end: a third
# of what such a process costs.
gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)


class _Unread(ModuleType):
    """A package that is imported as soon as more of it is asked for than its version."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") and name != "__path__":  # by who looks at all modules
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


# Fabric imports it for its version alone, which costs as much as torch.
try:
    unread = _Unread("torchmetrics")
    unread.__version__ = version("torchmetrics")
    sys.modules["torchmetrics"] = unread
except PackageNotFoundError:
    pass
