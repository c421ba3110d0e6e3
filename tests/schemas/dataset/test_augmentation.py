from collections import Counter

import pytest
from pydantic import ValidationError
from scipy import stats

from rhocache_schemas.dataset.augmentation import Augmentation, ViewDraws, draw_view

ALL = Augmentation(scale=(0.2, 1), flip=0.5, color_jitter=0.4, grayscale=0.2, rand_augment=9)


def test_views_are_what_they_were_when_the_first_caches_were_made():
    """A change would make every trainer replay other pictures than were scored."""
    draws = ViewDraws(7, "00000.tar", "0000017", 3)
    assert [draws.random() for _ in range(3)] == [
        0.5783312924630295,
        0.7466772046224843,
        0.07792127110856362,
    ]
    view = draw_view(640, 480, ALL, ViewDraws(7, "00000.tar", "0000017", 3))
    assert view.box == pytest.approx(
        (12.126893084996617, 6.632581224078172, 496.49682041715147, 426.91197296285617), rel=1e-12
    )
    assert view.mirrored
    names, amounts = zip(*view.operations, strict=True)
    assert names == ("hue", "contrast", "saturation", "brightness", "saturation", "sharpness")
    assert amounts == pytest.approx(
        (
            -0.08536427085111507,
            0.7813886982311624,
            1.0935017907581428,
            1.1874873017448735,
            0.73,
            1.27,
        )
    )


def test_each_part_of_where_a_view_stands_changes_its_draws():
    where = (0, "a.tar", "1", 1)
    others = (1, "a.tar", "1", 1), (0, "b.tar", "1", 1), (0, "a.tar", "2", 1), (0, "a.tar", "1", 2)
    found = {ViewDraws(*each).random() for each in (where, *others)}
    assert len(found) == 5
    assert ViewDraws(*where).random() == ViewDraws(*where).random()
    assert ViewDraws(-1, "a", "b", 0).random() != ViewDraws(1, "a", "b", 0).random()


def test_a_key_that_is_no_unicode_has_views_too():
    assert 0 <= ViewDraws(0, "a.tar", "caf\udce9", 1).random() < 1


def test_draws_are_uniform_within_a_view_and_across_views_and_keys():
    within = ViewDraws(0, "a.tar", "1", 1)
    for drawn in (
        [within.random() for _ in range(5000)],
        [ViewDraws(0, "a.tar", "1", view).random() for view in range(5000)],
        [ViewDraws(0, "a.tar", f"{key:07}", 1).random() for key in range(5000)],
    ):
        assert stats.kstest(drawn, "uniform").pvalue > 0.001


def test_what_is_drawn_has_the_frequencies_and_bounds_it_says():
    n = 3000
    views = [draw_view(300, 200, ALL, ViewDraws(1, "a.tar", f"{key}", 1)) for key in range(n)]
    assert sum(view.mirrored for view in views) / n == pytest.approx(0.5, abs=0.04)
    counted = Counter(name for view in views for name, _ in view.operations)
    assert counted["hue"] / n == pytest.approx(0.8, abs=0.04)
    assert counted["grayscale"] / n == pytest.approx(0.2, abs=0.04)
    assert counted["rotate"] / n == pytest.approx(2 / 14, abs=0.03)
    assert all(abs(amount) <= 0.1 for v in views for name, amount in v.operations if name == "hue")
    first = Counter(v.operations[0][0] for v in views if v.operations[:1] and len(v.operations) > 3)
    assert {"brightness", "contrast", "saturation", "hue"} <= first.keys()  # any may come first


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"scale": (1, 0.5)}, "scale runs from 1.0 down to 0.5"),
        ({"scale": (0.5, 2)}, "scale 2.0 is more than the whole image"),
        ({"ratio": (0, 1)}, "greater than 0"),
        ({"flip": 1.5}, "less than or equal to 1"),
        ({"rand_augment": 31}, "less than or equal to 30"),
    ],
)
def test_bad_settings_are_named(given, told):
    with pytest.raises(ValidationError, match=told):
        Augmentation(**given)


def test_a_range_may_be_written_as_on_a_command_line():
    assert Augmentation.model_validate({"scale": "0.2,1"}).scale == (0.2, 1.0)
