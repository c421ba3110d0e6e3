"""Imports rooms that may not be installed, with advice where they are not."""

import gc
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec

from rhocache_schemas.errors import MissingExtra

SOURCE = "git+https://github.com/rhocache/rhocache"


def install(name: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'rhocache[{name}] @ {SOURCE}'"


@contextmanager
def extra(name: str, *later: str) -> Generator[None]:
    """Around the imports of a room: say which extra is missing, and how to get it.

    ``later`` are packages that the room itself imports only when it comes to use them.
    """
    if missing := next((package for package in later if find_spec(package) is None), None):
        raise _missing(name, missing)
    gc.disable()  # it would walk all that torch brings many times over: a third of the time
    try:
        yield
    except ModuleNotFoundError as error:
        raise _missing(name, error.name) from error
    finally:
        gc.freeze()  # nor need it walk that later, least of all at the command's end
        gc.enable()


def _missing(name: str, package: str | None) -> MissingExtra:
    return MissingExtra(
        f"this command needs the {name} extra ({package} is not installed): {install(name)}"
    )
