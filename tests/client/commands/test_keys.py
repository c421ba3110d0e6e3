"""``rhocache keys`` as its users run it, beside a service that has the same registry."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rhocache_service.app import create_app

from ...service.conftest import served, settings_without_ray
from ..test_cli import error_line, run


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with served(create_app(settings_without_ray(tmp_path))) as url:
        yield url


def status(url: str, key: str) -> int:
    return httpx.get(f"{url}/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code


def test_a_key_is_made_used_listed_and_revoked(url: str, tmp_path: Path) -> None:
    where = f"--data-dir={tmp_path}"
    assert status(url, "rhk_none") == 200, "there are no keys yet"
    now = time.time()
    scopes = ["--scope=jobs:read", "--scope=jobs:write"]
    key = run("keys", "create", "ci", *scopes, "--days=90", where).stdout.strip()
    assert key.count("\n") == 0
    assert (status(url, key), status(url, "rhk_none")) == (200, 401)
    other = run("keys", "create", "other", "--scope=caches:read", where).stdout.strip()
    assert status(url, other) == 403

    listed = json.loads(run("keys", "list", "--json", where).stdout)
    assert listed["object"] == "list"
    by_name = {each["name"]: each for each in listed["data"]}
    assert by_name.keys() == {"ci", "other"}
    ci = by_name["ci"]
    assert (ci["scopes"], ci["revoked_at"]) == (["jobs:read", "jobs:write"], None)
    assert ci["created_at"] >= int(now)
    assert ci["expires_at"] - ci["created_at"] == pytest.approx(90 * 24 * 3600, abs=2)
    assert by_name["other"]["expires_at"] is None
    table = run("keys", "list", where).stdout
    assert "jobs:read, jobs:write" in table
    for secret in (key, other):
        assert secret not in json.dumps(listed) + table, "a key is shown once"

    assert run("keys", "revoke", ci["id"], where).stdout == ""
    assert (status(url, key), status(url, other)) == (401, 403)
    (revoked,) = (
        each
        for each in json.loads(run("keys", "list", "--json", where).stdout)["data"]
        if each["revoked_at"] is not None
    )
    assert revoked["id"] == ci["id"]
    line = error_line("keys", "revoke", ci["id"], where, code=2)
    assert f"no key '{ci['id']}' that could be revoked" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "a key needs a scope"),
        (["x", "--scope=everything"], "scope everything: it must be of"),
        (["x", "--scope=admin", "--days=-1"], "--days -1: it must be from 0 to 3650"),
        (["x\x1b[2J", "--scope=admin"], "1 to 100 printable characters"),
        (["x" * 101, "--scope=admin"], "1 to 100 printable characters"),
    ],
)
def test_a_key_that_can_not_be_made(tmp_path: Path, arguments: list[str], message: str) -> None:
    where = tmp_path / "data"
    assert message in error_line("keys", "create", *arguments, f"--data-dir={where}", code=2)
    assert not where.exists(), "and nothing else is"


def test_a_key_that_has_expired(url: str, tmp_path: Path) -> None:
    where = f"--data-dir={tmp_path}"
    key = run("keys", "create", "short", "--scope=admin", "--days=0", where).stdout.strip()
    assert status(url, key) == 401
