"""What a dataset, a model or a user says is shown as text, without secrets, whatever it holds."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhocache_schemas.cache.documents import Fault
from rhocache_schemas.errors import InvalidInput, MissingPair, ShardError, ShardErrorCode
from rhocache_schemas.text import LONGEST, printable, printable_lines, redact, tell

KEY = "rhk_0123456789abcdef_" + "k" * 43
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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no s3://AKIA:se/cr+et@bucket/x", "no s3://***@bucket/x"),
        ("postgresql://u:p@ss/w@host:5432/d, refused", "postgresql://***@host:5432/d, refused"),
        ("http://token@host", "http://***@host"),
        ("s3://b/x?access_key=A1&secret_key=B2#c", "s3://b/x?access_key=***&secret_key=***#c"),
        ("https://b/x?X-Amz-Signature=ab&v=1", "https://b/x?X-Amz-Signature=***&v=1"),
        ("host=h password = hush user=u", "host=h password = *** user=u"),
        ("Authorization: Bearer abcdefghijklmnop1", "Authorization: Bearer ***"),
        (f"no job '{KEY}'", "no job 'rhk_0123456789abcdef_***'"),
        ("key AKIAIOSFODNN7EXAMPLE is unknown", "key *** is unknown"),
        # What is no secret stays.
        ("http://127.0.0.1:8321/v1/x@y", "http://127.0.0.1:8321/v1/x@y"),
        ("s3://bucket/user@example.com/0.tar", "s3://bucket/user@example.com/0.tar"),
        ("give --api-key or set RHOCACHE_API_KEY", "give --api-key or set RHOCACHE_API_KEY"),
    ],
)
def test_what_is_told(text: str, told: str) -> None:
    assert redact(text) == told


def test_what_the_environment_keeps_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("HF_TOKEN", "short")
    assert redact("got wJalrXUtnFEMI/K7MDENG of short") == "got *** of short"


def test_no_error_and_no_fault_shows_one() -> None:
    assert str(InvalidInput("at http://u:pw@h/")) == "at http://***@h/"
    error = ShardError(ShardErrorCode.IO_ERROR, "0.tar", "s3://u:pw@b")
    assert "pw" not in str(error)
    assert Fault(code="job", detail="s3://u:pw@b").detail == "s3://***@b"


@pytest.mark.parametrize("text", ["://", "?key", "://a:", "password ", "&", "Bearer ", "a@"])
def test_a_long_text_costs_little(text: str) -> None:
    started = time.process_time()
    assert len(tell(text * 300_000)) < LONGEST + 10
    assert time.process_time() - started < 5


def test_what_no_database_takes() -> None:
    assert tell("a\0b\ud800").encode()
    assert "\0" not in tell("a\0b")
