"""Stops training between two steps at SIGINT or SIGTERM."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Which signal has come, 0 for none. Another thread may set it as if it had."""

    def __init__(self) -> None:
        self.signal = 0


@contextmanager
def noting_signals(stop: Stop) -> Generator[None]:
    """Note a SIGINT or SIGTERM in ``stop``; the second signal acts as it usually does.

    Outside the main thread, where Python takes no signals, none is ever noted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def request(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        restore()
        stop.signal = number

    for number in usual:
        signal.signal(number, request)
    try:
        yield
    finally:
        restore()
