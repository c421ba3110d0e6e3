"""Shuffling a stream through a buffer."""

from collections.abc import Iterable, Iterator
from random import Random
from typing import TypeVar

T = TypeVar("T")


def shuffle(items: Iterable[T], buffer_size: int, random: Random) -> Iterator[T]:
    """Give ``items`` in an order that ``random`` decides, holding at most ``buffer_size`` of them.

    A stream no longer than the buffer comes out uniformly shuffled; otherwise an item comes out
    any time after it went in, and at most ``buffer_size`` − 1 places before.
    """
    buffer: list[T] = []
    for item in items:
        if len(buffer) < buffer_size:
            buffer.append(item)
            continue
        place = random.randrange(buffer_size)
        yield buffer[place]
        buffer[place] = item
    random.shuffle(buffer)
    yield from buffer
