"""The registry's tables, in SQLite or PostgreSQL, and their migrations."""

import time
from typing import Any, ClassVar

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util.exc import CommandError
from sqlalchemy import (
    JSON,
    BigInteger,
    Connection,
    Double,
    Index,
    Integer,
    String,
    Text,
    create_engine,
    event,
    extract,
    false,
    func,
    select,
    text,
)
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rhocache_schemas.errors import InvalidInput, StorageError
from rhocache_schemas.job.kinds import DEFAULT, read_spec
from rhocache_schemas.job.spec import JobSpec, JobState

WAITING = (JobState.VALIDATING, JobState.QUEUED)  # for a driver
RUNNING = (JobState.IN_PROGRESS, JobState.FINALIZING, JobState.CANCELLING)

_MIGRATING = 0x52484F  # the advisory lock of replicas that start at once
# A server in the C locale makes databases of no encoding, whose texts would come as bytes.
_UTF8 = {"client_encoding": "utf8"}


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {float: Double}  # in PostgreSQL: of 8 bytes


class JobRow(Base):
    __tablename__ = "jobs"

    number: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True
    )  # order of arrival
    id: Mapped[str] = mapped_column(String(64), unique=True)
    status: Mapped[str] = mapped_column(String(16), index=True)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)  # of the kind that it names; none is score
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
    webhook: Mapped[str | None] = mapped_column(Text)  # URL to tell of its end
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

    @property
    def outputs(self) -> list[str]:
        """Every folder that the job writes, its own first."""
        return outputs_of(self.spec.get("kind"), self.spec["output"], self.spec.get("also"))

    def job_spec(self) -> JobSpec:
        return read_spec(self.spec)


def outputs_of(kind: str | None, output: str, also: list[dict[str, Any]] | None) -> list[str]:
    """Return ``JobSpec.outputs`` of a stored spec with these fields."""
    others = also or [] if kind in (None, DEFAULT) else []
    return [output, *(other["output"] for other in others)]


class NoteRow(Base):
    """An entry of a job's metadata, to find the job by."""

    __tablename__ = "notes"

    job: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512))

    __table_args__ = (Index("ix_notes_key_value", "key", "value"),)


class CacheRow(Base):
    """A cache that jobs have committed, or a table that they have made from one."""

    __tablename__ = "caches"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    uri: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(String(64), index=True)
    job: Mapped[str] = mapped_column(String(64))  # the last one that committed it
    committed_at: Mapped[int] = mapped_column(index=True)  # Unix seconds
    expires_at: Mapped[int | None] = mapped_column(BigInteger, index=True)  # Unix seconds
    is_table: Mapped[bool] = mapped_column(default=False, server_default=false())


class DeletionRow(Base):
    """A cache that is listed no more, and whose files are to go."""

    __tablename__ = "deletions"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # the cache's
    uri: Mapped[str] = mapped_column(Text)
    asked_at: Mapped[int] = mapped_column(BigInteger)  # Unix seconds


class EventRow(Base):
    """Something that happened to a job. Numbered from 1 for each, in the order of their commits."""

    __tablename__ = "events"

    job: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    at: Mapped[float]  # Unix seconds


class DeliveryRow(Base):
    """A webhook that has not been received yet."""

    __tablename__ = "deliveries"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # the same at each try
    job: Mapped[str] = mapped_column(String(64))
    url: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    tries: Mapped[int] = mapped_column(default=0)  # that have failed
    due_at: Mapped[float] = mapped_column(index=True)  # Unix seconds, of the next try


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


class SessionRow(Base):
    """A browser that has signed in with an API key, known by a hash of what its cookie holds."""

    __tablename__ = "sessions"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    api_key: Mapped[str] = mapped_column(String(64))  # by id; the session ends with it
    expires_at: Mapped[int] = mapped_column(BigInteger, index=True)  # Unix seconds


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


def parse_url(url: str) -> URL:
    """Read where a database is: ``postgresql://``, which ``postgres://`` is too, or ``sqlite://``.

    Raises InvalidInput for what is neither, and does not tell it, as it may hold a password.
    """
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError):
        raise InvalidInput(
            "the database URL can't be read; it is of the form postgresql://USER:PASSWORD@HOST/NAME,"
            " with %40 for an @ in the password, %3A for a : and so on"
        ) from None
    kind = parsed.drivername.partition("+")[0].lower()
    if kind in ("postgresql", "postgres"):  # as some hosts of databases write it
        return parsed.set(drivername="postgresql+psycopg")
    if kind == "sqlite":
        return parsed
    raise InvalidInput(f"the database URL begins with {kind}://, not postgresql:// or sqlite://")


def shown(url: URL) -> str:
    """A database's URL for logs and errors, without passwords."""
    if url.drivername == "sqlite":
        return f"sqlite:///{url.database}"
    secret = {name: "***" for name in url.query if "password" in name.lower()}
    return url.update_query_dict(secret).render_as_string(hide_password=True)


def open_database(url: URL) -> Engine:
    """Connect, and bring the tables up to date.

    Raises StorageError when the database can't be reached, or is newer than this service.
    """
    try:
        # Parameters are specs and answers: no log is to have them.
        engine = create_engine(
            url,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={} if url.get_backend_name() == "sqlite" else _UTF8,
        )
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _tune_sqlite)
        _migrate(engine)
    except (SQLAlchemyError, ImportError, CommandError) as error:
        cause = " ".join(str(error).split())[:300]
        raise StorageError(f"cannot open the registry {shown(url)}: {cause}") from error
    return engine


def revision(engine: Engine) -> str | None:
    """The migration that a database is at; None before the first."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", "rhocache_service.registry:migrations")
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATING})"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _tune_sqlite(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=10000")
