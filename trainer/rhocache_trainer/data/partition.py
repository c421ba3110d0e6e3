"""Partitions an epoch over ranks and workers, and shuffles what each of them reads."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from rhocache_schemas.dataset.shards import Shard

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a shard from ``start`` up to ``stop``; None for all that follow."""

    shard: Shard
    start: int
    stop: int | None


@dataclass(frozen=True, slots=True)
class Share:
    pieces: list[Piece]
    rows: int
    batches: int


def share_of(
    shards: Sequence[Shard],
    *,
    steps: int,
    first_step: int,
    rank: int,
    world_size: int,
    worker: int,
    workers: int,
) -> Share:
    """Return what one worker process of one rank gives of an epoch of ``steps`` batches.

    The rows of ``shards``, one after another, are cut into equal runs, one a rank, and each of them
    among the rank's workers by the batches that each gives. A DataLoader asks its workers in turn,
    so those are the batches whose number, since the first epoch, is ``worker`` modulo ``workers``.
    """
    rows = sum(shard.rows or 0 for shard in shards)
    begin, end = rank * rows // world_size, (rank + 1) * rows // world_size
    counts = [len(range((each - first_step) % workers, steps, workers)) for each in range(workers)]
    before, batches = sum(counts[:worker]), counts[worker]
    start = begin + (end - begin) * before // steps
    stop = begin + (end - begin) * (before + batches) // steps
    return Share(cut(shards, start, stop), stop - start, batches)


def cut(shards: Sequence[Shard], start: int, stop: int) -> list[Piece]:
    """Return the pieces that hold the rows from ``start`` up to ``stop`` of all shards' rows.

    A piece that ends where its shard does ends wherever it does: a shard may turn out to have more
    rows than it was told to, and they are not passed over without a word.
    """
    pieces: list[Piece] = []
    first = 0
    for shard in shards:
        end = first + (shard.rows or 0)
        if first < stop and end > start:
            pieces.append(
                Piece(shard, max(start - first, 0), None if end <= stop else stop - first)
            )
        first = end
    return pieces


def shuffle(items: Iterable[T], buffer_size: int, random: Random) -> Iterator[T]:
    """Yield ``items`` in an order that ``random`` decides, holding at most ``buffer_size`` of them.

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
