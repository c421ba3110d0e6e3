"""The registry's tables from the first release on, on both databases."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import Engine, Inspector

from rhocache_schemas.errors import StorageError
from rhocache_schemas.job.spec import JobState
from rhocache_service.jobs.resource import job_resource
from rhocache_service.registry.api_keys import Keys
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.leader_lease import Leadership
from rhocache_service.registry.sessions import Sessions
from rhocache_service.registry.tables import Base, open_database
from rhocache_service.settings import Settings

# As the first release wrote them: jobs were of one kind, which none named.
KEY, SECRET = "0" * 16, "A" * 43
SPEC = {
    "format_version": "1.0",
    "dataset": "/data/pairs",
    "output": "/data/cache",
    "reference": {"model": "local-dir:/data/model", "pretrained": None},
    "metadata": {"owner": "vision", "nul": "\0"},
}
PROGRESS = {
    "format_version": "1.0",
    "phase": "encoding",
    "shards_total": 2,
    "shards_done": 1,
    "pairs_done": 10,
    "updated_at": 4.0,
}
FIRST: dict[str, dict[str, Any]] = {
    "api_keys": {
        "id": KEY, "name": "older", "sha256": hashlib.sha256(SECRET.encode()).hexdigest(),
        "scopes": ["admin"], "created_at": 1, "expires_at": None, "revoked_at": None,
    },
    "jobs": {
        "number": 1, "id": f"job_{1:024}", "status": "in_progress", "spec": SPEC,
        "api_key": KEY, "priority": 3, "deadline": None, "content_sha256": "c" * 64,
        "follows": None, "retries": None, "starts": 1, "started_at": 3.0, "stopped_by": None,
        "shards": 2, "progress": PROGRESS, "fingerprint": None, "error_code": None,
        "error_detail": None, "created_at": 1.0, "times": {"validating": 1, "in_progress": 3},
        "last_event": 1,
    },
    "events": {
        "job": f"job_{1:024}", "number": 1, "kind": "job.status",
        "data": {"status": "validating", "error": None}, "at": 1.0,
    },
    "caches": {
        "id": "cache_1", "uri": "/data/other", "fingerprint": "f" * 64, "job": f"job_{0:024}",
        "committed_at": 2,
    },
    "answers": {
        "api_key": KEY, "idempotency_key": "once", "request_sha256": "r" * 64, "status": 202,
        "headers": {}, "body": "{}", "at": 1.0,
    },
    "leases": {"name": "reconciler", "holder": "older", "until": 10.0**10},
}  # fmt: skip


ADDITIVE_SINCE = "0003"


def migrate(connection: Any, target: str) -> None:
    config = Config()
    config.set_main_option("script_location", "rhocache_service.registry:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, target)


@pytest.fixture
def first(fresh_url: str) -> str:
    """The URL of a registry as the first release left it."""
    engine = create_engine(fresh_url)
    with engine.begin() as connection:
        migrate(connection, "0001")
        for table, row in FIRST.items():
            values = {
                name: json.dumps(value) if isinstance(value, dict | list) else value
                for name, value in row.items()
            }
            columns, places = ", ".join(row), ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO {table} ({columns}) VALUES ({places})"), values)
    engine.dispose()
    return fresh_url


def test_the_migrations_make_the_tables_that_the_code_has(database: Engine) -> None:
    with database.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_registry_of_the_first_release_is_brought_up_to_date(first: str) -> None:
    engine = open_database(first)
    registry = Registry(engine)
    (row,) = registry.newest(9, metadata={"owner": "vision"})
    job = job_resource(row)
    assert (job.id, job.status, job.priority) == (f"job_{1:024}", JobState.IN_PROGRESS, 3)
    assert (job.spec.kind, job.output_uri) == ("score", "/data/cache")
    assert (job.request_counts.completed, job.shard_counts.committed) == (10, 1)
    assert [event.data["status"] for event in registry.events(row.id, 0)] == ["validating"]
    assert (row.moved_at, row.webhook) == (3.0, None)
    (cache,) = registry.caches.newest(9)
    assert (cache.uri, cache.committed_at, cache.expires_at) == ("/data/other", 2, None)
    key = Keys(engine).check(f"rhk_{KEY}_{SECRET}")
    assert key is not None
    assert (key.name, key.scopes) == ("older", ["admin"])
    assert Sessions(engine).check(Sessions(engine).begin(key)) is not None
    # It goes on: whoever led by the first release's lease is gone.
    assert Leadership(engine).hold()
    registry.advance(row, JobState.FINALIZING)
    assert [event.number for event in registry.events(row.id, 0)] == [1, 2]
    engine.dispose()


def test_replicas_of_the_release_before_go_on_with_the_new_tables(fresh_url: str) -> None:
    """While one replica after another is restarted: what they write and read is still there, and
    what they know nothing of asks for nothing."""
    engine = create_engine(fresh_url)
    with engine.begin() as connection:
        migrate(connection, ADDITIVE_SINCE)
    tables = inspect(engine)
    before = {table: columns(tables, table) for table in tables.get_table_names()}
    with engine.begin() as connection:
        migrate(connection, "head")
    tables = inspect(engine)
    for table, known in before.items():
        after = columns(tables, table)
        assert {name: after.get(name) for name in known} == known
        for name in after.keys() - known.keys():
            assert after[name][1], f"{table}.{name} needs a value"
    engine.dispose()


def columns(tables: Inspector, table: str) -> dict[str, tuple[str, bool]]:
    """Name -> type, and whether a row may be written without it."""
    return {
        column["name"]: (
            repr(column["type"]), column["nullable"] or column["default"] is not None
        )
        for column in tables.get_columns(table)
    }  # fmt: skip


def test_a_registry_of_a_newer_service_is_left_alone(tmp_path: Path) -> None:
    url = Settings(data_dir=tmp_path).registry_url
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match="9999"):
        open_database(url)
