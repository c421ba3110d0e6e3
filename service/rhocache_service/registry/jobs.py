"""The registry of jobs. The truth of their work is in the caches."""

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select, delete, exists, func, insert, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, sessionmaker

from rhocache_schemas.cache.documents import Fault
from rhocache_schemas.errors import JobStateConflict
from rhocache_schemas.job.names import JOB_ID
from rhocache_schemas.job.spec import JobSpec, JobState, transition
from rhocache_service import metrics
from rhocache_service.registry.caches import Committed
from rhocache_service.registry.deliveries import delivery
from rhocache_service.registry.tables import (
    RUNNING,
    WAITING,
    EventRow,
    JobRow,
    LeaseRow,
    NoteRow,
    now,
    outputs_of,
)

SUBMITTED_SECONDS = 60  # in which a key may submit so many jobs

_LOOK_AT = 200  # jobs of a kind, in one step
_RATES = 300  # of a job's progress events, at most twice as many are kept when it has ended
_PROGRESS = "job.progress"
_UNFINISHED = [state for state in JobState if not state.terminal]

Happening = tuple[str, dict[str, Any]]  # the kind of an event, and its data


class Registry:
    """Every change of a job and its events are one transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.caches = Committed(engine)
        self._session = sessionmaker(engine, expire_on_commit=False)

    def ping(self) -> None:
        """Write and forget a row: a registry that can only be read is of no use."""
        name = f"ping-{secrets.token_hex(8)}"
        with self.engine.begin() as connection:
            row = {"name": name, "holder": "", "renewals": 0, "at": 0.0}
            connection.execute(insert(LeaseRow).values(**row))
            connection.execute(delete(LeaseRow).where(LeaseRow.name == name))

    def now(self) -> float:
        """Unix seconds, by the clock that deadlines and limits are kept in."""
        with self.engine.connect() as connection:
            return now(connection)

    def add(self, spec: JobSpec, **columns: Any) -> JobRow:
        row = JobRow(
            id=f"job_{secrets.token_hex(12)}",
            status=JobState.VALIDATING,
            spec=spec.model_dump(mode="json"),
            times={JobState.VALIDATING: int(time.time())},
            last_event=1,
            **columns,
        )
        with self._session.begin() as session:
            row.created_at = now(session.connection())
            session.add(row)
            session.add_all(_notes(row))
            _append(session, row.id, 1, [_status_event(JobState.VALIDATING)])
        return row

    def get(self, job: str) -> JobRow | None:
        if not JOB_ID.fullmatch(job):
            return None  # PostgreSQL refuses to look for some strings at all
        with self._session() as session:
            return session.scalar(select(JobRow).where(JobRow.id == job))

    def among(self, jobs: Sequence[str]) -> dict[str, JobRow]:
        """Those of the jobs that are not forgotten, by id."""
        with self._session() as session:
            found = session.scalars(select(JobRow).where(JobRow.id.in_(jobs)))
            return {row.id: row for row in found}

    def newest(
        self,
        limit: int,
        after: JobRow | None = None,
        status: JobState | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> list[JobRow]:
        """Jobs in the order of arrival backwards, from the one that came before ``after``; only
        those that have all of this metadata, among other."""
        query = select(JobRow).order_by(JobRow.number.desc()).limit(limit)
        if after is not None:
            query = query.where(JobRow.number < after.number)
        if status is not None:
            query = query.where(JobRow.status == status)
        for key, value in (metadata or {}).items():
            if "\0" in key + value:
                return []  # PostgreSQL refuses to look for it
            noted = exists().where(NoteRow.job == JobRow.id, NoteRow.key == key)
            query = query.where(noted.where(NoteRow.value == value))
        with self._session() as session:
            return list(session.scalars(query))

    def active(self) -> Sequence[JobRow]:
        """Jobs to look at now: those of the highest priority first, then by fair turns, the oldest
        of each API key first.

        Of those that are queued only the next ones, followers, and those whose deadline has passed:
        of a long queue the rest is not read.
        """
        busy = [state for state in _UNFINISHED if state is not JobState.QUEUED]
        queued = JobRow.status == JobState.QUEUED
        order = (JobRow.priority.desc(), JobRow.number)
        found: dict[int, JobRow] = {}
        turns: dict[int, int] = {}
        with self._session() as session:
            due = JobRow.follows.is_not(None) | (JobRow.deadline < now(session.connection()))
            for part in (JobRow.status.in_(busy), queued & due):
                query = select(JobRow).where(part).order_by(*order).limit(_LOOK_AT)
                found |= {row.number: row for row in session.scalars(query)}
            for row, turn in session.execute(_next_in_turn()):
                found[row.number], turns[row.number] = row, turn

        def order_of(row: JobRow) -> tuple[int, int, int]:
            return -row.priority, turns.get(row.number, 0), row.number

        return sorted(found.values(), key=order_of)

    def idle(self) -> bool:
        """Whether every job is at an end."""
        query = select(JobRow.id).where(JobRow.status.in_(_UNFINISHED)).limit(1)
        with self._session() as session:
            return session.scalar(query) is None

    def running(self) -> Sequence[JobRow]:
        """Jobs that have a driver."""
        states = [JobState.IN_PROGRESS, JobState.FINALIZING]
        query = select(JobRow).where(JobRow.status.in_(states), JobRow.follows.is_(None))
        with self._session() as session:
            return session.scalars(query).all()

    def waiting_since(self) -> float | None:
        """When the oldest job that waits for a driver was submitted, in Unix seconds."""
        query = select(func.min(JobRow.created_at)).where(JobRow.status.in_(WAITING))
        with self._session() as session:
            return session.scalar(query)

    def unfinished(self) -> Sequence[JobRow]:
        """Every job that has not ended."""
        with self._session() as session:
            return session.scalars(select(JobRow).where(JobRow.status.in_(_UNFINISHED))).all()

    def outputs(self) -> set[str]:
        """Where the jobs that have not ended write."""
        output = JobRow.spec["output"].as_string()
        query = select(JobRow.spec["kind"].as_string(), output, JobRow.spec["also"])
        query = query.where(JobRow.status.in_(_UNFINISHED), output.is_not(None))
        with self._session() as session:
            return {place for fields in session.execute(query) for place in outputs_of(*fields)}

    def at_work(self, content_sha256: str) -> str | None:
        """The job that does the same and has not ended, if there is one."""
        states = [state for state in _UNFINISHED if state is not JobState.CANCELLING]
        query = select(JobRow.id).where(
            JobRow.content_sha256 == content_sha256,
            JobRow.status.in_(states),
            JobRow.follows.is_(None),
        )
        with self._session() as session:
            return session.scalar(query.order_by(JobRow.number).limit(1))

    def waiting(self, api_key: str | None) -> int:
        """How many jobs of a key have not been started."""
        query = select(func.count()).where(JobRow.api_key == api_key, JobRow.status.in_(WAITING))
        with self._session() as session:
            return session.scalar(query) or 0

    def submitted(self, api_key: str | None) -> tuple[int, int]:
        """How many jobs a key has submitted in the last SUBMITTED_SECONDS, and in how many seconds
        the oldest of them counts no more.

        Jobs of a time to come were submitted before the clock was set back, and don't count.
        """
        with self._session() as session:
            at = now(session.connection())
            query = select(func.count(), func.min(JobRow.created_at)).where(
                JobRow.api_key == api_key, JobRow.created_at.between(at - SUBMITTED_SECONDS, at)
            )
            count, oldest = session.execute(query).one()
        return count, math.ceil(oldest + SUBMITTED_SECONDS - at) if count else 0

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        query = select(JobRow.status, func.count()).group_by(JobRow.status)
        with self._session() as session:
            found = {JobState(status): count for status, count in session.execute(query)}
        return {state: found.get(state, 0) for state in JobState}

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
        if not self._update(row, changes, [_status_event(new, fault)]):
            raise JobStateConflict(f"job {row.id} is no longer {row.status}")
        entered = row.times.get(row.status, time.time())
        code = None if fault is None else fault.code
        metrics.count_move(row.state, time.time() - entered, new, code)
        fresh = self.get(row.id)
        if fresh is None:
            raise JobStateConflict(f"job {row.id} is gone")
        return fresh

    def note(self, row: JobRow, happenings: Sequence[Happening] = (), **changes: Any) -> bool:
        """Change other columns of a job, if it is still in the state that ``row`` says."""
        return self._update(row, changes, happenings)

    def check_ended(self, row: JobRow) -> None:
        """Raises JobStateConflict."""
        if not row.state.terminal:
            raise JobStateConflict(f"job {row.id} is {row.status}: cancel it first")

    def delete(self, row: JobRow) -> None:
        """Forget a job that is at an end; its cache stays.

        Raises JobStateConflict for one that is not.
        """
        self.check_ended(row)
        with self._session.begin() as session:
            for table in (EventRow, NoteRow):
                session.execute(delete(table).where(table.job == row.id))
            session.execute(delete(JobRow).where(JobRow.id == row.id))

    def events(self, job: str, after: int, limit: int = 1000) -> Sequence[EventRow]:
        """A job's events in order, those with a number above ``after``."""
        query = select(EventRow).where(EventRow.job == job, EventRow.number > after)
        with self._session() as session:
            return session.scalars(query.order_by(EventRow.number).limit(limit)).all()

    def rates(self, job: str) -> list[tuple[float, float]]:
        """How fast a job was: Unix seconds and pairs a second, evenly over its whole run."""
        rate = EventRow.data["pairs_per_second"].as_float().label("rate")
        query = select(EventRow.at, rate).where(
            EventRow.job == job, EventRow.number.in_(_thinned(job))
        )
        with self._session() as session:
            found = session.execute(query.order_by(EventRow.number))
            return [(row.at, row.rate) for row in found]

    def shard_outcomes(self, job: str, limit: int) -> dict[str, dict[str, Any]]:
        """Shard -> what was told of its end, of the last ``limit`` shards that have ended."""
        query = (
            select(EventRow.data)
            .where(EventRow.job == job, EventRow.kind.in_(["shard.committed", "shard.failed"]))
            .order_by(EventRow.number.desc())
            .limit(limit)
        )
        with self._session() as session:
            return {data["shard"]: data for data in reversed(session.scalars(query).all())}

    def last_events(self, jobs: Sequence[str]) -> dict[str, int]:
        """Job -> number of its newest event; those that are gone are left out."""
        query = select(JobRow.id, JobRow.last_event).where(JobRow.id.in_(jobs))
        with self._session() as session:
            return {row.id: row.last_event for row in session.execute(query)}

    def close(self) -> None:
        self.engine.dispose()

    def _update(
        self, row: JobRow, changes: dict[str, Any], happenings: Sequence[Happening]
    ) -> bool:
        with self._session.begin() as session:
            if changes.keys() & {"progress", "started_at"}:
                changes["moved_at"] = now(session.connection())
            statement = (
                update(JobRow)
                .where(JobRow.id == row.id, JobRow.status == row.status)
                # This locks the row, so that events are numbered in the order of their commits.
                .values(last_event=JobRow.last_event + len(happenings), **changes)
                .returning(JobRow.last_event)
            )
            last = session.scalar(statement)
            if last is not None:
                _append(session, row.id, last - len(happenings) + 1, happenings)
                if (state := JobState(changes.get("status", row.status))).terminal:
                    _thin_out(session, row.id)
                    if row.webhook is not None:
                        session.add(delivery(session, row, row.webhook, state))
        return last is not None


def _next_in_turn() -> "Select[JobRow, Any]":
    """The queued jobs that are next, each with its turn.

    An API key's first job has turn 1 and its second turn 2, and one more for each that it has
    running: who has many jobs waits longer for the next, not everyone else.
    """
    running = (
        select(JobRow.api_key, func.count().label("jobs"))
        .where(JobRow.status.in_(RUNNING), JobRow.follows.is_(None))
        .group_by(JobRow.api_key)
        .subquery()
    )
    place = func.row_number().over(
        partition_by=JobRow.api_key, order_by=(JobRow.priority.desc(), JobRow.number)
    )
    turn = (place + func.coalesce(running.c.jobs, 0)).label("turn")
    return (
        select(JobRow, turn)
        .outerjoin(running, JobRow.api_key.is_not_distinct_from(running.c.api_key))
        .where(JobRow.status == JobState.QUEUED, JobRow.follows.is_(None))
        .order_by(JobRow.priority.desc(), turn, JobRow.number)
        .limit(_LOOK_AT)
    )


def _notes(row: JobRow) -> list[NoteRow]:
    """Without those that PostgreSQL has no text for."""
    entries = row.spec["metadata"].items()
    return [NoteRow(job=row.id, key=k, value=v) for k, v in entries if "\0" not in k + v]


def _append(session: Session, job: str, first: int, happenings: Sequence[Happening]) -> None:
    session.add_all(
        EventRow(job=job, number=first + offset, kind=kind, data=data, at=time.time())
        for offset, (kind, data) in enumerate(happenings)
    )


def _thin_out(session: Session, job: str) -> None:
    """Forget how far a job was at most seconds of its run, and keep what its curve needs."""
    session.execute(
        delete(EventRow).where(
            EventRow.job == job,
            EventRow.kind == _PROGRESS,
            EventRow.number.not_in(_thinned(job)),
        )
    )


def _thinned(job: str) -> Select[int]:
    """The numbers of about _RATES of a job's progress events: evenly chosen, its newest one too."""
    place = func.row_number().over(order_by=EventRow.number.desc()) - 1
    total = func.count().over()
    progress = (
        select(EventRow.number, place.label("place"), total.label("total"))
        .where(EventRow.job == job, EventRow.kind == _PROGRESS)
        .subquery()
    )
    every = progress.c.total // _RATES + 1  # of whole numbers, in either database
    return select(progress.c.number).where(progress.c.place % every == 0)


def _status_event(state: JobState, fault: Fault | None = None) -> Happening:
    error = None if fault is None else fault.model_dump()
    return "job.status", {"status": state, "error": error}
