from random import Random

from hypothesis import given
from hypothesis import strategies as st

from rhocache_trainer.data.shuffle import shuffle


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
