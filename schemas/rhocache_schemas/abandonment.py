"""Stops long work whose request was abandoned: loops ask between two steps."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

from rhocache_schemas.errors import Abandoned

_given_up: ContextVar[Callable[[], bool]] = ContextVar("given_up", default=lambda: False)


@contextmanager
def until(given_up: Callable[[], bool]) -> Generator[None]:
    """Let ``keep_on`` end what is done within, threads that copy the context included."""
    token = _given_up.set(given_up)
    try:
        yield
    finally:
        _given_up.reset(token)


def keep_on() -> None:
    """Raises Abandoned where whoever asked for this work has gone."""
    if _given_up.get()():
        raise Abandoned("whoever asked for this has gone")
