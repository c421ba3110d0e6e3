import time

import pytest
from sqlalchemy import select
from sqlalchemy.engine import Engine

from rhocache_schemas.errors import InvalidInput
from rhocache_service.database import KeyRow
from rhocache_service.keys import Keys


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
    with pytest.raises(InvalidInput, match="jobs:read, jobs:write, caches:read, admin"):
        keys.create("x", scopes)
