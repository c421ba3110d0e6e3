"""Which view and which caption of a pair is looked at when."""

from collections import Counter
from math import lcm

import pytest

from rhocache_trainer.data.replay import Turns


@pytest.mark.parametrize(("views", "captions"), [(1, 3), (4, 1), (2, 2), (2, 4), (3, 4), (6, 4)])
def test_taken_in_turn_each_view_meets_each_caption(views: int, captions: int) -> None:
    turns = Turns(seed=3, views=views)
    for key in "abc":
        met = [turns.choose(epoch, "0", key, captions) for epoch in range(views * captions)]
        assert len(set(met)) == views * captions
        for which, count in ((0, views), (1, captions)):  # and each comes as often as the others
            for start in range(0, len(met), lcm(views, captions)):
                part = Counter(each[which] for each in met[start : start + lcm(views, captions)])
                assert len(part) == count
                assert len(set(part.values())) == 1


def test_pairs_begin_at_different_ones() -> None:
    turns = Turns(seed=3, views=2)
    first = Counter(turns.choose(0, "0", str(key), 3) for key in range(6000))
    assert len(first) == 6
    assert min(first.values()) > 850  # of 1,000 each; a standard deviation is 29


def test_at_random_they_are_drawn_anew_each_epoch() -> None:
    turns = Turns(seed=3, order="random", views=2)
    drawn = Counter(turns.choose(epoch, "0", "a", 3) for epoch in range(6000))
    assert len(drawn) == 6
    assert min(drawn.values()) > 850


def test_the_first_alone_or_no_more_than_asked() -> None:
    assert Turns(seed=3, order="first").choose(5, "0", "a", 9) == (0, 0)
    some = Turns(seed=3, captions=2)
    assert {some.choose(epoch, "0", "a", 9)[1] for epoch in range(20)} == {0, 1}
    assert some.choose(1, "0", "a", 1) == (0, 0)
