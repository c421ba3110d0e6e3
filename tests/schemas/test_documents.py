import json

import pytest

from rhocache_schemas.documents import Document
from rhocache_schemas.errors import InvalidDocument, UnsupportedVersion


class Example(Document):
    name: str
    count: int = 0


def test_round_trip() -> None:
    example = Example(name="é", count=3)
    assert Example.parse(example.to_json(), "here") == example


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "here is not JSON"),
        (b"\xff", "here is not JSON"),
        (b"[1]", "here holds no JSON object"),
        (b'{"name": "a", "nmae": 1}', "nmae: unknown field"),
        (b'{"count": 1}', "name: Field required"),
        (b'{"name": "a", "count": "many"}', "count: Input should be a valid integer"),
        (b'{"name": "a", "format_version": "one"}', "'one' is not of the form '1.0'"),
        (b'{"name": "a", "format_version": 2}', "is not of the form '1.0'"),
    ],
)
def test_what_does_not_fit_is_named(data: bytes, message: str) -> None:
    with pytest.raises(InvalidDocument, match=message):
        Example.parse(data, "here")


def test_a_newer_major_version_is_refused_before_anything_else_is_read() -> None:
    newer = json.dumps({"format_version": "2.0", "renamed": "a"}).encode()
    with pytest.raises(UnsupportedVersion, match=r"here has format version 2\.0.*up to 1\.0"):
        Example.parse(newer, "here")


def test_a_newer_minor_version_is_read() -> None:
    assert Example.parse(b'{"name": "a", "format_version": "1.7"}', "here").name == "a"
