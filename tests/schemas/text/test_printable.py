"""What a dataset says reaches a terminal as text, whatever it would make the terminal do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhocache_schemas.errors import MissingPair, ShardError, ShardErrorCode
from rhocache_schemas.text.printable import printable, printable_lines

ORDINARY = "a cat, Ünïcödé 数字 עברית العربية می‌خواهم 👩‍👧 e\u0301 [red]x[/red] \\x1b"


def test_ordinary_text_stays_as_it_is() -> None:
    assert printable(ORDINARY) == ORDINARY


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\nb\r\tc\0", r"a\nb\r\tc\x00"),
        ("\x7f\x9b31m\x85", r"\x7f\x9b31m\x85"),
        ("\u202egnp.exe\u2066\u200f", r"\u202egnp.exe\u2066\u200f"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\ud800x\udfff", r"\ud800x\udfff"),
        ("\ufeff\u200b\U000e0041", r"\ufeff\u200b\U000e0041"),
    ],
)
def test_what_would_fool_a_reader_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(), max_size=30))
def test_any_text_comes_out_as_one_line_that_can_be_written(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown.encode().decode()
    assert printable(shown) == shown


def test_lines_that_are_meant_stay() -> None:
    assert printable_lines("a\n  b\x1b\n") == "a\n  b\\x1b\n"


def test_errors_are_printable() -> None:
    assert str(MissingPair("no pair \x1b[2J of a\nb")) == r"no pair \x1b[2J of a\nb"
    error = ShardError(ShardErrorCode.IO_ERROR, "0\x1b.tar", "gone\u202e")
    assert str(error) == r"shard 0\x1b.tar: gone\u202e"
    assert error.shard == "0\x1b.tar"
