"""The registry of jobs, in SQLite or PostgreSQL. The truth of their work is in the caches."""

import re
import secrets
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import JSON, BigInteger, Integer, String, Text, create_engine, event, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from rhocache_schemas.errors import JobStateConflict, StorageError
from rhocache_schemas.job import JobSpec, JobState, transition
from rhocache_schemas.records import Fault

_ID = re.compile("job_[0-9a-f]{24}")


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
    starts: Mapped[int] = mapped_column(default=0)  # drivers that were started for it
    started_at: Mapped[float] = mapped_column(default=0.0)  # Unix seconds, of the last of them
    shards: Mapped[int | None]  # of the dataset, known once it is validated
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # a Progress, as last read
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(Text)
    # Unix second of each state that was entered.
    times: Mapped[dict[str, int]] = mapped_column(JSON)

    @property
    def state(self) -> JobState:
        return JobState(self.status)

    def job_spec(self) -> JobSpec:
        return JobSpec.model_validate(self.spec)


class Registry:
    def __init__(self, url: str) -> None:
        """Open the registry, and make its tables where there are none.

        Raises StorageError when the database can't be reached.
        """
        try:
            self._engine = create_engine(url, pool_pre_ping=True)
            if self._engine.dialect.name == "sqlite":
                event.listen(self._engine, "connect", _tune_sqlite)
            Base.metadata.create_all(self._engine)
        except (SQLAlchemyError, ImportError) as error:
            place = _without_password(url)
            cause = " ".join(str(error).split())[:300]
            raise StorageError(f"cannot open the registry {place}: {cause}") from error
        self._session = sessionmaker(self._engine, expire_on_commit=False)

    @property
    def engine(self) -> Engine:
        return self._engine

    def ping(self) -> None:
        with self._engine.connect() as connection:
            connection.execute(select(1))

    def add(self, spec: JobSpec) -> JobRow:
        now = int(time.time())
        row = JobRow(
            id=f"job_{secrets.token_hex(12)}",
            status=JobState.VALIDATING,
            spec=spec.model_dump(mode="json"),
            starts=0,
            started_at=0.0,
            times={"created": now, JobState.VALIDATING: now},
        )
        with self._session.begin() as session:
            session.add(row)
        return row

    def get(self, job: str) -> JobRow | None:
        if not _ID.fullmatch(job):
            return None  # PostgreSQL refuses to look for some strings at all
        with self._session() as session:
            return session.scalar(select(JobRow).where(JobRow.id == job))

    def newest(self, limit: int, after: JobRow | None, status: JobState | None) -> list[JobRow]:
        """Jobs in the order of arrival backwards, from the one that came before ``after``."""
        query = select(JobRow).order_by(JobRow.number.desc()).limit(limit)
        if after is not None:
            query = query.where(JobRow.number < after.number)
        if status is not None:
            query = query.where(JobRow.status == status)
        with self._session() as session:
            return list(session.scalars(query))

    def active(self) -> Sequence[JobRow]:
        """Jobs that are not at an end, oldest first."""
        unfinished = [state for state in JobState if not state.terminal]
        query = select(JobRow).where(JobRow.status.in_(unfinished)).order_by(JobRow.number)
        with self._session() as session:
            return session.scalars(query).all()

    def advance(
        self, row: JobRow, new: JobState, fault: Fault | None = None, **changes: Any
    ) -> JobRow:
        """Move a job to another state, if it is still in the state that ``row`` says.

        Raises JobStateConflict where it is not, or where the move is not a legal one.
        """
        transition(row.id, row.state, new)
        changes["times"] = row.times | {new: int(time.time())}
        changes["status"] = new
        if fault is not None:
            changes |= {"error_code": fault.code, "error_detail": fault.detail}
        if not self._update(row, changes):
            raise JobStateConflict(f"job {row.id} is no longer {row.status}")
        return self._again(row)

    def note(self, row: JobRow, **changes: Any) -> None:
        """Change other columns of a job, if it is still in the state that ``row`` says."""
        self._update(row, changes)

    def _update(self, row: JobRow, changes: dict[str, Any]) -> bool:
        statement = (
            update(JobRow).where(JobRow.id == row.id, JobRow.status == row.status).values(**changes)
        )
        with self._session.begin() as session:
            return session.execute(statement).rowcount == 1  # pyright: ignore

    def _again(self, row: JobRow) -> JobRow:
        fresh = self.get(row.id)
        if fresh is None:
            raise JobStateConflict(f"job {row.id} is gone")
        return fresh

    def close(self) -> None:
        self._engine.dispose()


def _tune_sqlite(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=10000")


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
