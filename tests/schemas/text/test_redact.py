import time

import pytest

from rhocache_schemas.cache.documents import Fault
from rhocache_schemas.errors import InvalidInput, ShardError, ShardErrorCode
from rhocache_schemas.text.redact import LONGEST, redact, tell

KEY = "rhk_0123456789abcdef_" + "k" * 43


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
