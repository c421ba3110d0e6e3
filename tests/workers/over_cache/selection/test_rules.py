"""Conditions and the best of groups, against loops."""

import math

import numpy as np
import pytest

from rhocache_schemas.job.kinds.select import Condition
from rhocache_workers.over_cache.selection.rules import best_of_groups, within

VALUES = np.array([0.3, np.nan, 0.1, 0.2, 0.2, 0.5, -1.0, np.nan])


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a=0.2:", [0.3, 0.2, 0.2, 0.5]),
        ("a=:0.2", [0.1, 0.2, 0.2, -1.0]),
        ("a=0.1:0.3", [0.3, 0.1, 0.2, 0.2]),
        ("a=q0.5:", [0.3, 0.2, 0.2, 0.5]),  # of -1, .1, .2, .2, .3, .5
        ("a=q0.2:q0.8", [0.3, 0.1, 0.2, 0.2]),
        ("a=:", [0.3, 0.1, 0.2, 0.2, 0.5, -1.0]),
        ("a=0.9:0.1", []),
    ],
)
def test_a_condition_keeps_what_lies_between_its_ends(text: str, kept: list[float]) -> None:
    condition = Condition.model_validate(text)
    assert VALUES[within(VALUES, condition)].tolist() == kept
    assert Condition.model_validate(str(condition)) == condition


def test_where_no_value_is_known_none_is_kept() -> None:
    values = np.array([math.nan, math.nan])
    assert not within(values, Condition.model_validate("a=q0.5:")).any()


def test_the_most_similar_of_each_group_is_kept() -> None:
    random = np.random.default_rng(0)
    group = random.integers(-1, 20, 200)
    similarity = random.integers(0, 5, 200) / 10
    expected = group < 0
    for each in range(20):
        members = np.flatnonzero(group == each)
        expected[members[np.argmax(similarity[members])]] = True
    assert (best_of_groups(group, similarity) == expected).all()
