"""Finds jobs for people: by words and by state, those at work first, with counts of each state."""

import json
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Text, and_, case, cast, func, or_, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from rhocache_schemas.job.spec import JobState
from rhocache_service.registry.tables import RUNNING, WAITING, JobRow, KeyRow

PAGE = 50  # jobs

_SPEC = JobRow.spec
# What a job is called by, or after.
_SEARCHED = (
    JobRow.id,
    _SPEC["dataset"].as_string(),
    _SPEC["output"].as_string(),
    _SPEC["reference"]["model"].as_string(),
    _SPEC["reference"]["pretrained"].as_string(),
)


@dataclass(frozen=True, slots=True)
class FoundJobs:
    rows: list[JobRow]  # of one page
    counts: dict[JobState, int]  # of all that match, whatever their state; none is left out
    owners: dict[str, str]  # id of an API key -> its name, of the rows


def find_jobs(engine: Engine, words: str, status: JobState | None, page: int) -> FoundJobs:
    """Find the jobs that have every word in their id, dataset, output, model, metadata or owner.

    Those at work come first, then those that wait, and of each the newest first. ``page`` counts
    from 1.
    """
    matches = and_(True, *(_has(word) for word in words.split()))
    rank = case((JobRow.status.in_(RUNNING), 0), (JobRow.status.in_(WAITING), 1), else_=2)
    order = (rank, JobRow.number.desc())
    # Numbers alone are sorted: specs and progress are read of one page's jobs.
    chosen = select(JobRow.number).where(matches)
    if status is not None:
        chosen = chosen.where(JobRow.status == status)
    chosen = chosen.order_by(*order).limit(PAGE).offset((page - 1) * PAGE)
    tally = select(JobRow.status, func.count()).where(matches).group_by(JobRow.status)
    with Session(engine, expire_on_commit=False) as session:
        numbers = session.scalars(chosen).all()
        rows = session.scalars(select(JobRow).where(JobRow.number.in_(numbers)).order_by(*order))
        found = list(rows)
        counted = {JobState(state): count for state, count in session.execute(tally)}
        counts = {state: counted.get(state, 0) for state in JobState}
        return FoundJobs(found, counts, owners(session, found))


def owners(session: Session, rows: list[JobRow]) -> dict[str, str]:
    """Id of an API key -> its name, of those that submitted these jobs."""
    keys = {row.api_key for row in rows}
    query = select(KeyRow.id, KeyRow.name).where(KeyRow.id.in_(keys))
    return {row.id: row.name for row in session.execute(query)}


def _has(word: str) -> ColumnElement[bool]:
    spelled = json.dumps(word)[1:-1]  # as a JSON column has it
    return or_(
        *(text.icontains(word, autoescape=True) for text in _SEARCHED),
        cast(_SPEC["metadata"], Text).icontains(spelled, autoescape=True),
        JobRow.api_key.in_(select(KeyRow.id).where(KeyRow.name.icontains(word, autoescape=True))),
    )
