"""Imports rooms that may not be installed, with advice where they are not."""

import gc
from collections.abc import Generator
from contextlib import contextmanager

from rhocache_schemas.errors import MissingExtra


@contextmanager
def extra(name: str) -> Generator[None]:
    """Around the imports of a room: say which extra is missing, and how to get it."""
    gc.disable()  # it would walk all that torch brings many times over: a third of the time
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"this command needs the {name} extra ({error.name} is not installed): "
            f"pip install 'rhocache[{name}]'"
        ) from error
    finally:
        gc.freeze()  # nor need it walk that later, least of all at the command's end
        gc.enable()
