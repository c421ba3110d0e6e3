"""The registry's tables, in SQLite or PostgreSQL, and their migrations."""

import time
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import (
    JSON,
    BigInteger,
    Connection,
    Double,
    Integer,
    String,
    Text,
    create_engine,
    event,
    extract,
    func,
    select,
    text,
)
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rhocache_schemas.errors import StorageError
from rhocache_schemas.job import JobSpec, JobState
from rhocache_schemas.redact import redact

_MIGRATING = 0x52484F  # the advisory lock of replicas that start at once


class Base(DeclarativeBase):
    pass


class JobRow(Base):
    __tablename__ = "jobs"

    number: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True
    )  # order of arrival
    id: Mapped[str] = mapped_column(String(64), unique=True)
    status: Mapped[str] = mapped_column(String(16), index=True)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    api_key: Mapped[str | None] = mapped_column(String(64), index=True)  # whose job it is, by id
    priority: Mapped[int] = mapped_column(default=0)  # the higher ones first
    deadline: Mapped[float | None]  # Unix seconds; the job expires then
    # Of what is scored into which cache: equal for jobs that do the same.
    content_sha256: Mapped[str] = mapped_column(String(64), index=True, default="")
    follows: Mapped[str | None] = mapped_column(String(64))  # the same job, which runs already
    retries: Mapped[str | None] = mapped_column(String(64))  # the job that it is another try of
    starts: Mapped[int] = mapped_column(default=0)  # drivers that were started for it
    started_at: Mapped[float] = mapped_column(default=0.0)  # Unix seconds, of the last of them
    # Unix seconds: when it was seen to be started or to get further, by the registry's clock.
    moved_at: Mapped[float] = mapped_column(default=0.0, server_default="0")
    stopped_by: Mapped[str | None] = mapped_column(String(16))  # "request" or "deadline"
    shards: Mapped[int | None]  # of the dataset, known once it is validated
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # a Progress, as last read
    fingerprint: Mapped[str | None] = mapped_column(String(64))  # of the cache that it committed
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[float]  # Unix seconds
    # Unix second of each state that was entered.
    times: Mapped[dict[str, int]] = mapped_column(JSON)
    last_event: Mapped[int] = mapped_column(default=0)  # number of its newest event

    @property
    def state(self) -> JobState:
        return JobState(self.status)

    def job_spec(self) -> JobSpec:
        return JobSpec.model_validate(self.spec)


class CacheRow(Base):
    """A cache that jobs have committed."""

    __tablename__ = "caches"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    uri: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(String(64), index=True)
    job: Mapped[str] = mapped_column(String(64))  # the last one that committed it
    committed_at: Mapped[int] = mapped_column(index=True)  # Unix seconds


class EventRow(Base):
    """Something that happened to a job. Numbered from 1 for each, in the order of their commits."""

    __tablename__ = "events"

    job: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    at: Mapped[float]  # Unix seconds


class KeyRow(Base):
    """An API key, of which only a hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    sha256: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[int]  # Unix seconds
    expires_at: Mapped[int | None]
    revoked_at: Mapped[int | None]


class AnswerRow(Base):
    """What a request with an Idempotency-Key was answered; no status while it is in flight."""

    __tablename__ = "answers"

    api_key: Mapped[str] = mapped_column(String(64), primary_key=True)  # "" where there are none
    idempotency_key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[int | None]
    headers: Mapped[dict[str, str] | None] = mapped_column(JSON)
    body: Mapped[str | None] = mapped_column(Text)
    at: Mapped[float]  # Unix seconds


class LeaseRow(Base):
    """Which of several services moves the jobs on."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    holder: Mapped[str] = mapped_column(String(64))
    renewals: Mapped[int]  # it is alive as long as they go on
    at: Mapped[float]  # Unix seconds of the last one


def now(connection: Connection) -> float:
    """Unix seconds by the one clock that all services of a registry share."""
    if connection.dialect.name == "sqlite":  # they are on one machine
        return time.time()
    return connection.scalar(select(extract("epoch", func.clock_timestamp()).cast(Double))) or 0.0


def open_database(url: str) -> Engine:
    """Connect, and bring the tables up to date.

    Raises StorageError when the database can't be reached, or is newer than this service.
    """
    try:
        # Parameters are specs and answers: no log is to have them.
        engine = create_engine(url, pool_pre_ping=True, hide_parameters=True)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _tune_sqlite)
        _migrate(engine)
    except (SQLAlchemyError, ImportError, CommandError) as error:
        place = _without_password(url)
        cause = " ".join(str(error).split()).replace(url, place)[:300]
        raise StorageError(f"cannot open the registry {place}: {cause}") from error
    return engine


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", "rhocache_service:migrations")
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATING})"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _tune_sqlite(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=10000")


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return redact(f"{scheme}://{rest.rpartition('@')[2]}")
