"""What people call a job, whose it is, and how long it has been at work."""

import time
from dataclasses import dataclass

from rhocache_schemas.api import Job
from rhocache_schemas.job.names import about, name_of
from rhocache_service.jobs.resource import job_resource
from rhocache_service.registry.tables import JobRow


@dataclass(frozen=True, slots=True)
class NamedJob:
    """A job's resource beside what only people ask for."""

    job: Job
    name: str
    about: str  # dataset → model, where the name does not say so
    owner: str | None
    seconds: float | None  # from its driver's start to its end, or until now
    done: float  # the part of its shards that has ended, from 0 to 1


def named(row: JobRow, owners: dict[str, str]) -> NamedJob:
    """``owners`` are the names of API keys by their ids."""
    job, spec = job_resource(row), row.job_spec()
    name, what = name_of(spec), about(spec)
    counts = job.shard_counts
    return NamedJob(
        job=job,
        name=name,
        about=what if name != what else "",
        owner=job.metadata.get("owner") or owners.get(row.api_key or ""),
        seconds=_seconds(row),
        done=(counts.committed + counts.failed) / counts.total if counts.total else 0.0,
    )


def _seconds(row: JobRow) -> float | None:
    began = row.times.get("in_progress")
    if began is None:
        return None
    return max(0.0, (row.times[row.status] if row.state.terminal else time.time()) - began)
