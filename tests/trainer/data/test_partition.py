"""Shares of an epoch, against counting every row, and their shuffling."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from rhocache_schemas.dataset.shards import Shard
from rhocache_trainer.data.partition import cut, share_of, shuffle


def rows_of(pieces) -> list[tuple[str, int]]:
    return [
        (piece.shard.name, row)
        for piece in pieces
        for row in range(piece.start, piece.shard.rows if piece.stop is None else piece.stop)
    ]


def shards_of(sizes: list[int]) -> list[Shard]:
    return [Shard(str(number), "", 0, 0, size) for number, size in enumerate(sizes)]


sizes = st.lists(st.integers(0, 9), min_size=1, max_size=8)


@given(sizes=sizes, start=st.integers(0, 30), length=st.integers(0, 30))
def test_a_cut_is_a_slice_of_all_rows(sizes: list[int], start: int, length: int):
    shards = shards_of(sizes)
    every = [(shard.name, row) for shard in shards for row in range(shard.rows or 0)]
    assert rows_of(cut(shards, start, start + length)) == every[start : start + length]


def test_the_end_of_a_shard_is_wherever_it_is():
    shards = shards_of([3, 3])
    assert [piece.stop for piece in cut(shards, 1, 5)] == [None, 2]
    assert [piece.stop for piece in cut(shards, 0, 6)] == [None, None]


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
    shards = shards_of(sizes)
    every = [(shard.name, row) for shard in shards for row in range(shard.rows or 0)]
    steps = len(every) // (batch_size * world_size)
    if not steps:
        return
    shared: list[tuple[str, int]] = []
    on_ranks = []
    for rank in range(world_size):
        shares = [
            share_of(
                shards,
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


@given(n=st.integers(0, 60), buffer_size=st.integers(1, 70), seed=st.integers(0, 9))
def test_a_permutation_within_the_reach_of_the_buffer(n, buffer_size, seed):
    out = list(shuffle(range(n), buffer_size, Random(seed)))
    assert sorted(out) == list(range(n))
    assert all(place > item - buffer_size for place, item in enumerate(out))
    assert out == list(shuffle(range(n), buffer_size, Random(seed)))


def test_reads_no_further_ahead_than_the_buffer():
    taken = []
    stream = shuffle((taken.append(item) or item for item in range(100)), 7, Random(0))
    next(stream)
    assert len(taken) == 8


def test_a_stream_that_fits_is_uniformly_shuffled():
    firsts = [next(shuffle(range(4), 8, Random(seed))) for seed in range(4000)]
    assert all(900 < firsts.count(item) < 1100 for item in range(4))
