"""Sizes against the library's own expansion, of patterns that are small enough to expand."""

import pytest
from braceexpand import braceexpand
from hypothesis import given, settings
from hypothesis import strategies as st

from rhocache_schemas.errors import DatasetError, InvalidInput
from rhocache_schemas.storage import braces

number = st.integers(-12, 12)
leaf = st.one_of(
    st.sampled_from(["a", "bc", "", r"\{", r"\,", r"\\", "x,y", "{}", "{z}", "é"]),
    st.builds("{{{}..{}}}".format, number, number),
    st.builds("{{{:03}..{}..{}}}".format, number, number, st.integers(0, 4)),
    st.builds("{{{}..{}}}".format, st.sampled_from("abzAZ"), st.sampled_from("abzAZ")),
)
patterns = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: "{" + ",".join(parts) + "}"),
        st.lists(inner, min_size=2, max_size=3).map("".join),
    ),
    max_leaves=3,  # of 52 names at most: with 6 of them a pattern may stand for half a billion
)


@settings(deadline=None)
@given(patterns)
def test_what_is_counted_is_what_is_expanded(pattern: str) -> None:
    expanded = list(braceexpand(pattern))
    assert braces.expand(pattern) == list(dict.fromkeys(expanded))
    count, characters = braces._size(pattern)  # pyright: ignore[reportPrivateUsage]
    assert count == len(expanded)
    assert characters >= sum(map(len, expanded))


@pytest.mark.parametrize(
    "pattern",
    [
        "{00000..99999999}.tar",
        "{1..99999999..2}",
        "{99999999..0}",
        "{a..z}" * 5,
        "{a,b}" * 100_000,
        "{x,{1..2000000}}",
        "{" + "{1..10000}," * 200 + "}",
        "x" * 500_000 + "{1..1000}",  # few names, but of half a gigabyte
        "{0..1" + "0" * 5000 + "}",
        "{0001..1" + "0" * 1000 + "}",
        "{" * 100_000 + "}" * 100_000,
        "{" * 10 + "a,b" + "}" * 10,
    ],
    ids=range(12),
)
def test_too_many_names_are_refused_before_there_is_one(pattern: str) -> None:
    with pytest.raises(InvalidInput) as error:
        braces.expand(pattern)
    assert len(str(error.value)) < 5000
    with pytest.raises(InvalidInput):
        braces.check(pattern)


@pytest.mark.parametrize("pattern", ["{00", "a}", "{a,{b}"])
def test_braces_that_do_not_match(pattern: str) -> None:
    with pytest.raises(DatasetError, match="unbalanced"):
        braces.expand(pattern)
