"""Which rows, and how many batches, of an epoch are whose."""

from collections.abc import Sequence
from dataclasses import dataclass

from rhocache_schemas.dataset.formats.base import Part


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a part from ``start`` up to ``stop``; None for all that follow."""

    part: Part
    start: int
    stop: int | None


@dataclass(frozen=True, slots=True)
class Share:
    pieces: list[Piece]
    rows: int
    batches: int


def share_of(
    parts: Sequence[Part],
    *,
    steps: int,
    first_step: int,
    rank: int,
    world_size: int,
    worker: int,
    workers: int,
) -> Share:
    """What one worker process of one rank gives of an epoch of ``steps`` batches.

    The rows of ``parts``, one after another, are cut into equal runs, one a rank, and each of them
    among the rank's workers by the batches that each gives. A DataLoader asks its workers in turn,
    so those are the batches whose number, since the first epoch, is ``worker`` modulo ``workers``.
    """
    rows = sum(part.rows or 0 for part in parts)
    begin, end = rank * rows // world_size, (rank + 1) * rows // world_size
    counts = [len(range((each - first_step) % workers, steps, workers)) for each in range(workers)]
    before, batches = sum(counts[:worker]), counts[worker]
    start = begin + (end - begin) * before // steps
    stop = begin + (end - begin) * (before + batches) // steps
    return Share(cut(parts, start, stop), stop - start, batches)


def cut(parts: Sequence[Part], start: int, stop: int) -> list[Piece]:
    """The pieces that hold the rows from ``start`` up to ``stop`` of all parts' rows.

    A piece that ends where its part does ends wherever it does: a part may turn out to have more
    rows than it was told to, and they are not passed over without a word.
    """
    pieces: list[Piece] = []
    first = 0
    for part in parts:
        end = first + (part.rows or 0)
        if first < stop and end > start:
            pieces.append(Piece(part, max(start - first, 0), None if end <= stop else stop - first))
        first = end
    return pieces
