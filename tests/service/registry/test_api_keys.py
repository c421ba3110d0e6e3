import subprocess
import time
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.engine import Engine

from rhocache_schemas.api import SCOPES
from rhocache_schemas.errors import InvalidInput
from rhocache_service.registry.api_keys import Keys
from rhocache_service.registry.tables import KeyRow, open_database
from rhocache_service.settings import Settings

from ..conftest import COMMAND


@pytest.fixture
def keys(database: Engine) -> Keys:
    return Keys(database)


def test_a_key_is_known_again_and_nothing_else_is(keys: Keys, database: Engine) -> None:
    assert not keys.exist()
    row, key = keys.create("ci", ["jobs:read"])
    assert keys.exist()
    found = keys.check(key)
    assert found is not None
    assert (found.id, found.name, found.scopes) == (row.id, "ci", ["jobs:read"])
    secret = key.rpartition("_")[2]
    for wrong in ("", key[:-1], key + "A", key.replace("rhk_", "rhk-"), secret, key.upper()):
        assert keys.check(wrong) is None
    other = keys.create("other", ["admin"])[1]
    assert keys.check(f"rhk_{row.id}_{other[-43:]}") is None
    with database.connect() as connection:
        stored = str(connection.execute(select(*KeyRow.__table__.columns)).all())
    assert key[-43:] not in stored


def test_a_key_ends(keys: Keys) -> None:
    row, key = keys.create("short", ["admin"], expires_at=int(time.time()) - 1)
    assert keys.check(key) is None
    row, key = keys.create("long", ["admin"], expires_at=int(time.time()) + 60)
    assert keys.check(key) is not None
    keys.revoke(row.id)
    assert keys.check(key) is None
    assert keys.exist(), "revoking the last key opens nothing"
    for absent in (row.id, "none"):
        with pytest.raises(InvalidInput, match=absent):
            keys.revoke(absent)
    assert [listed.name for listed in keys.list()] in (["long", "short"], ["short", "long"])


@pytest.mark.parametrize("scopes", [[], ["jobs"], ["jobs:read", "root"]])
def test_scopes_that_there_are_not(keys: Keys, scopes: list) -> None:
    with pytest.raises(InvalidInput, match="jobs:read, jobs:write, caches:read, caches:write, m"):
        keys.create("x", scopes)


@pytest.mark.parametrize("name", ["", "x" * 101, "two\nlines", "\0"])
def test_names_that_a_key_can_not_have(keys: Keys, name: str) -> None:
    with pytest.raises(InvalidInput, match="must be 1 to 100 printable characters"):
        keys.create(name, ["admin"])


def create(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "keys", "create", "ci", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], f"a key needs a scope: give one or more of {', '.join(SCOPES)}"),
        (["--scope", "root"], f"scope root: it must be of {', '.join(SCOPES)}"),
        (["--scope", "jobs:read", "--days", "nan"], "--days nan: it must be from 0 to 3650"),
        (["--scope", "jobs:read", "--days", "1e9"], "--days 1e+09: it must be from 0 to 3650"),
    ],
)
def test_a_key_that_is_not_made_leaves_nothing(tmp_path: Path, flags: list[str], told: str) -> None:
    done = create(*flags, "--data-dir", tmp_path / "data")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"rhocache: error: {told}\n"
    assert not (tmp_path / "data").exists()


def test_a_key_has_the_scopes_that_were_named_and_no_more(tmp_path: Path) -> None:
    done = create("--scope", "jobs:read", "--scope", "metrics:read", "--data-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    engine = open_database(Settings(data_dir=tmp_path).registry_url)
    row = Keys(engine).check(done.stdout.strip())
    engine.dispose()
    assert row is not None
    assert row.scopes == ["jobs:read", "metrics:read"]
