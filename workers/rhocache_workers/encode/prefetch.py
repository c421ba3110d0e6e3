"""Prefetches items in a thread, a bounded number ahead."""

import queue
import threading
from collections.abc import Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Iterate over ``items``, which a thread takes up to ``count`` in front, from now on.

    What ``items`` raises is raised at its place. A context manager; leaving it ends the thread.
    """

    def __init__(self, items: Iterator[T], count: int) -> None:
        self._items = items
        self._queue: queue.Queue[T | _End] = queue.Queue(count)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._read, name="read-ahead", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        while self._thread.is_alive():  # it may wait for room
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def __iter__(self) -> Iterator[T]:
        while not isinstance(item := self._queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error

    def _read(self) -> None:
        error = None
        try:
            for item in self._items:
                self._queue.put(item)
                if self._left.is_set():
                    return
        except BaseException as raised:  # to be raised where it is awaited
            error = raised
        self._queue.put(_End(error))


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error
