from pathlib import Path

import pytest

from rhocache_schemas.errors import InvalidInput, UriNotAllowed
from rhocache_schemas.job.allowed_roots import check_allowed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An allowed folder, with a sibling of a similar name and symlinks out of it and within."""
    root = tmp_path / "root"
    (root / "data").mkdir(parents=True)
    (tmp_path / "root-evil").mkdir()
    (root / "out").symlink_to("/etc")
    (root / "loop").symlink_to("loop")
    (root / "sideways").symlink_to(tmp_path / "root-evil")
    (root / "within").symlink_to(root / "data")
    return root


@pytest.mark.parametrize(
    "place",
    ["", "/data", "/new/deep/cache", "/within/cache", "/data/../data", "//data", "/a b/%2e%2e"],
)
def test_places_under_a_root(root: Path, place: str) -> None:
    check_allowed(f"{root}{place}", [str(root)])
    check_allowed(f"file://{root}{place}", [str(root)])


@pytest.mark.parametrize(
    "place",
    [
        "/..", "/../root-evil", "-evil", "/data/../../root-evil", "/out", "/out/passwd",
        "/sideways/x", "/loop", "/loop/x", "/within/../../root-evil", "/./../root-evil", "/\0/etc",
    ],
)  # fmt: skip
def test_ways_out_of_a_root(root: Path, place: str) -> None:
    for uri in (f"{root}{place}", f"file://{root}{place}"):
        with pytest.raises(UriNotAllowed, match=r"allowed root|NUL|followed"):
            check_allowed(uri, [str(root)])


@pytest.mark.parametrize(
    "uri", ["/etc/passwd", "~/x", "relative/x", "s3://bucket/x", "gs://bucket"]
)
def test_places_elsewhere(root: Path, uri: str) -> None:
    with pytest.raises(UriNotAllowed):
        check_allowed(uri, [str(root)])


@pytest.mark.parametrize(
    "uri", ["http://host/x", "https://host/x", "pipe:cat /etc/passwd", "ftp://h/x"]
)
def test_other_schemes(root: Path, uri: str) -> None:
    with pytest.raises(InvalidInput):
        check_allowed(uri, [str(root)])


def test_buckets() -> None:
    roots = ["s3://bucket/team"]
    check_allowed("s3://bucket/team/cache", roots)
    check_allowed("s3://bucket/team/", roots)
    for uri in (
        "s3://bucket", "s3://bucket/team-evil", "s3://bucket/team/../other", "s3://bucket/team//x",
        "s3://other/team", "gs://bucket/team", "s3://bucket/team/./x",
    ):  # fmt: skip
        with pytest.raises(UriNotAllowed):
            check_allowed(uri, roots)
