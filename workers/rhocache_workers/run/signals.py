"""Ends a run at SIGTERM as at Ctrl+C."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def sigterm_as_interrupt() -> Generator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does; only a main thread can ask for that.

    To be entered after Ray has started, which puts a handler of its own in place.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
