"""Encodes images and captions that repeat once."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
from cachetools import LRUCache
from torch import Tensor

from rhocache_schemas.errors import RowErrorCode


class Embedding:
    """What becomes of one image or caption, shared by all the pairs that have it.

    It starts with a ``source``, the tower's input, and ends with a ``vector`` or an ``error``.
    An image is that of one pair alone where its views are drawn for the pair.
    """

    __slots__ = ("error", "source", "vector")

    def __init__(self, source: "Future[Tensor | RowErrorCode]") -> None:
        self.source: Future[Tensor | RowErrorCode] | None = source
        self.vector: np.ndarray | None = None  # float32, unit: [V, d] of an image, [d] of a caption
        self.error: RowErrorCode | None = None


class Memo:
    """The ``capacity`` embeddings that were asked for last, by the hash of what they embed."""

    def __init__(self, capacity: int) -> None:
        self._entries: LRUCache[bytes, Embedding] = LRUCache(capacity)
        self._lock = threading.Lock()  # two shards are read at a time

    def get(self, key: bytes, make: Callable[[], Embedding]) -> Embedding:
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                found = self._entries[key] = make()
            return found

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
