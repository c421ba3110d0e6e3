"""Shares of an epoch, against counting every row."""

from hypothesis import given
from hypothesis import strategies as st

from rhocache_schemas.dataset.formats.base import Part
from rhocache_trainer.data.partition import cut, share_of


def rows_of(pieces) -> list[tuple[str, int]]:
    return [
        (piece.part.name, row)
        for piece in pieces
        for row in range(piece.start, piece.part.rows if piece.stop is None else piece.stop)
    ]


def parts_of(sizes: list[int]) -> list[Part]:
    return [Part(str(number), size) for number, size in enumerate(sizes)]


sizes = st.lists(st.integers(0, 9), min_size=1, max_size=8)


@given(sizes=sizes, start=st.integers(0, 30), length=st.integers(0, 30))
def test_a_cut_is_a_slice_of_all_rows(sizes: list[int], start: int, length: int):
    parts = parts_of(sizes)
    every = [(part.name, row) for part in parts for row in range(part.rows or 0)]
    assert rows_of(cut(parts, start, start + length)) == every[start : start + length]


def test_the_end_of_a_part_is_wherever_it_is():
    parts = parts_of([3, 3])
    assert [piece.stop for piece in cut(parts, 1, 5)] == [None, 2]
    assert [piece.stop for piece in cut(parts, 0, 6)] == [None, None]


@given(
    sizes=sizes,
    batch_size=st.integers(1, 4),
    world_size=st.integers(1, 3),
    workers=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_shares_part_the_rows_and_have_enough_for_their_batches(
    sizes, batch_size, world_size, workers, epoch
):
    parts = parts_of(sizes)
    every = [(part.name, row) for part in parts for row in range(part.rows or 0)]
    steps = len(every) // (batch_size * world_size)
    if not steps:
        return
    shared: list[tuple[str, int]] = []
    on_ranks = []
    for rank in range(world_size):
        shares = [
            share_of(
                parts,
                steps=steps,
                first_step=epoch * steps,
                rank=rank,
                world_size=world_size,
                worker=worker,
                workers=workers,
            )
            for worker in range(workers)
        ]
        for worker, share in enumerate(shares):
            asked = range(epoch * steps, (epoch + 1) * steps)
            assert share.batches == sum(step % workers == worker for step in asked)
            assert share.rows == len(rows_of(share.pieces)) >= share.batches * batch_size
            shared += rows_of(share.pieces)
        on_ranks.append(sum(share.rows for share in shares))
    assert shared == every
    assert max(on_ranks) - min(on_ranks) <= 1
