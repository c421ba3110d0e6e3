"""Moves each job to the state that follows from the registry, Ray and its cache."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import OperationalError
from structlog.contextvars import bound_contextvars

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Fault, Progress
from rhocache_schemas.errors import (
    CacheIncomplete,
    InvalidInput,
    JobError,
    JobStateConflict,
    RayUnreachable,
    RhocacheError,
)
from rhocache_schemas.job.allowed_roots import Place, check_job, place_apart, true_place
from rhocache_schemas.job.spec import JobState
from rhocache_service import metrics
from rhocache_service.jobs.kinds import kind_of
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.leader_lease import Leadership
from rhocache_service.registry.tables import RUNNING, JobRow
from rhocache_service.scheduling.drivers import Drivers, DriverState
from rhocache_service.scheduling.progress import events_between, read_progress

log = logging.getLogger(__name__)

STARTS = 3  # drivers that a job may lose before it fails
PATIENCE_SECONDS = 60.0  # in which a driver that Ray does not know is the same start, made again
_EXPIRABLE = (JobState.VALIDATING, JobState.QUEUED, JobState.IN_PROGRESS)


class Reconciler:
    """Holds no state of its own: a restarted service goes on from the registry."""

    def __init__(
        self,
        registry: Registry,
        leadership: Leadership,
        drivers: Callable[[], Drivers],
        roots: list[str],
        max_running_jobs: int,
        max_running_jobs_of_key: int | None = None,
        retention_days: float | None = None,
    ) -> None:
        self._registry = registry
        self._leadership = leadership
        self._drivers = drivers  # called each time, since Ray may have been started anew
        self._roots = roots
        self._max_running_jobs = max_running_jobs
        self._max_of_key = max_running_jobs_of_key or max_running_jobs
        self._retention_days = retention_days
        self._busy: list[Place] = []  # caches that have a driver
        self._of_key: Counter[str | None] = Counter()  # API key -> its jobs that have one
        self._told: dict[str, str] = {}  # job -> its trouble, as it was logged last

    def end_idle(self) -> None:
        """End the jobs that need no Ray for it, which may be slow, or not there at all.

        Raises OperationalError where the registry can't be used.
        """
        if not self._leadership.hold():
            return
        rows, now = self._registry.active(), self._registry.now()
        ids = {row.id for row in rows}
        self._told = {job: trouble for job, trouble in self._told.items() if job in ids}
        for row in rows:
            if row.deadline is not None and now > row.deadline and row.state in _EXPIRABLE:
                self._look_at(row, Reconciler._expire)
            elif row.state is JobState.CANCELLING and not _has_driver(row):
                self._look_at(row, Reconciler._cancel)

    def drive(self) -> None:
        """Start, follow and stop drivers, with Ray up and ready for the next.

        Raises RayUnreachable, and OperationalError where the registry can't be used.
        """
        self._drivers()  # each service says by itself whether it reaches Ray
        if not self._leadership.hold():
            return
        rows = [row for row in self._registry.active() if _has_driver(row)]
        running = [row for row in rows if row.state in RUNNING]
        self._busy = [place_apart(output) for row in running for output in row.outputs]
        self._of_key = Counter(row.api_key for row in running)
        for row in rows:
            self._look_at(row, self._steps[row.state])

    def admit(self) -> None:
        """Look into the datasets of new jobs, which may take its time, and move on followers.

        Raises OperationalError where the registry can't be used.
        """
        try:
            self._drivers()
        except RayUnreachable:  # as ``drive`` says
            return
        if not self._leadership.hold():
            return
        for row in self._registry.active():
            if row.follows is not None and row.state is not JobState.CANCELLING:
                self._look_at(row, Reconciler._accompany)
            elif row.state is JobState.VALIDATING:
                self._look_at(row, Reconciler._validate)

    def _look_at(self, row: JobRow, step: Callable[[Any, JobRow], object]) -> None:
        with bound_contextvars(job=row.id):
            try:
                step(self, row)
            except JobStateConflict as error:
                log.info("%s: %s", row.id, error)  # someone else moved it; look again next time
            except (RayUnreachable, OperationalError):
                raise  # the next job would fare no better
            except RhocacheError as error:
                self._warn(row, str(error))
                if isinstance(error, InvalidInput):  # which no other try mends
                    self._give_up(row, Fault(code=error.code, detail=str(error)))
            except Exception as error:
                if self._warn(row, f"unforeseen: {error!r}"):
                    log.exception("%s: unforeseen", row.id)
                detail = "it can't be handled; the service's log has the cause"
                self._give_up(row, Fault(code="internal", detail=detail))

    def _warn(self, row: JobRow, trouble: str) -> bool:
        """Log a job's trouble, once as long as it stays the same."""
        news = self._told.get(row.id) != trouble
        if news:
            self._told[row.id] = trouble
            log.warning("%s: %s", row.id, trouble)
        return news

    def _give_up(self, row: JobRow, fault: Fault) -> None:
        """Fail a job that would be looked at for ever, where no driver is at work for it."""
        if row.state in (JobState.VALIDATING, JobState.QUEUED):
            with suppress(JobStateConflict):
                self._fail(row, fault)

    def _expire(self, row: JobRow) -> None:
        """Stop a job whose deadline has passed, unless it is about to be completed anyway."""
        if row.state is JobState.IN_PROGRESS:
            self._registry.advance(row, JobState.CANCELLING, stopped_by="deadline")
        else:
            self._registry.advance(row, JobState.EXPIRED)

    def _validate(self, row: JobRow) -> None:
        spec = row.job_spec()
        try:
            check_job(spec, self._roots)
            shards = kind_of(spec).validate(spec, self._roots)
        except RhocacheError as error:
            self._fail(row, Fault(code=error.code, detail=str(error)))
            return
        self._registry.advance(row, JobState.QUEUED, shards=shards)

    def _start(self, row: JobRow) -> None:
        if len(self._busy) >= self._max_running_jobs:
            return
        if self._of_key[row.api_key] >= self._max_of_key:
            return
        spec = row.job_spec()
        places = [true_place(output) for output in spec.outputs]
        if any(place in self._busy for place in places):
            return  # one driver a cache
        if any(map(self._registry.caches.is_given_up, spec.outputs)):
            return  # the cache that was there is being deleted
        try:
            if self._is_awaited(kind_of(spec).awaits(spec)):
                return
        except CacheIncomplete as error:
            self._fail(row, Fault(code=error.code, detail=str(error)))
            return
        # The registry first: a start that Ray never saw is made again, two would race.
        now = self._registry.now()
        row = self._registry.advance(row, JobState.IN_PROGRESS, starts=1, started_at=now)
        self._busy += places
        self._of_key[row.api_key] += 1
        self._drivers().start(row, 1)

    def _is_awaited(self, cache: str | None) -> bool:
        """Whether a cache that a job reads is still to be made, or is being made anew.

        Raises CacheIncomplete where it is not there, and no job makes it.
        """
        if cache is None:
            return False
        place = true_place(cache)
        if place in self._busy:
            return True
        there = storage.exists(layout.manifest_file(cache))
        if there and not self._registry.caches.is_given_up(cache):
            return False
        if place in map(place_apart, self._registry.outputs()):
            return True
        raise CacheIncomplete(f"{cache} is no committed cache, and no job makes one there")

    def _follow(self, row: JobRow) -> None:
        state = self._drivers().state(row.id, row.starts)
        progress = read_progress(row)
        if progress is not None and (before := self._note(row, progress)) is not progress:
            metrics.count_progress(before, progress)
        ended = state is not DriverState.RUNNING
        if progress is not None and progress.fault is not None and ended:
            self._fail(row, progress.fault)
        elif state is DriverState.SUCCEEDED or (
            # Whatever Ray remembers: the cache is the truth.
            ended and progress is not None and progress.phase == "completed"
        ):
            self._complete(row)
        elif state is DriverState.RUNNING:
            if row.state is JobState.IN_PROGRESS and progress and progress.phase == "finalizing":
                self._registry.advance(row, JobState.FINALIZING)
        elif state is DriverState.UNKNOWN and self._is_young(row):
            # It never arrived, as Ray was still starting, or Ray has been started anew since.
            log.info("%s: Ray does not know its driver; starting it again", row.id)
            self._drivers().start(row, row.starts)
        elif row.starts < STARTS:
            log.warning("%s: its driver is lost (%s); starting another", row.id, state)
            if self._registry.note(row, starts=row.starts + 1, started_at=self._registry.now()):
                self._drivers().start(row, row.starts + 1)
        else:
            line = self._drivers().last_line(row.id, row.starts)
            detail = f"its driver was lost {STARTS} times; the last one said: {line}"
            self._fail(row, Fault(code="job", detail=detail))

    def _is_young(self, row: JobRow) -> bool:
        return self._registry.now() - row.started_at < PATIENCE_SECONDS

    def _complete(self, row: JobRow) -> None:
        spec = row.job_spec()
        kind = kind_of(spec)
        try:
            fingerprint = kind.outcome(spec)
            made = {spec.output: fingerprint, **kind.beside(spec)}
        except (CacheIncomplete, JobError) as error:
            self._fail(row, Fault(code=error.code, detail=str(error)))
            return
        if row.state is JobState.IN_PROGRESS:
            row = self._registry.advance(row, JobState.FINALIZING)
        if fingerprint is not None or kind.makes_tables:
            now, days = int(time.time()), self._retention_days
            expires_at = None if days is None else now + int(days * 86400)
            for output, of in made.items():
                self._registry.caches.add(
                    output, of or "", row.id, now, expires_at, is_table=kind.makes_tables
                )
        self._registry.advance(row, JobState.COMPLETED, fingerprint=fingerprint)

    def _cancel(self, row: JobRow) -> None:
        if row.starts:
            drivers = self._drivers()
            if drivers.state(row.id, row.starts) is DriverState.RUNNING:
                drivers.stop(row.id, row.starts)
                return
            progress = read_progress(row)
            if progress is not None:
                self._note(row, progress)
        expired = row.stopped_by == "deadline"
        self._registry.advance(row, JobState.EXPIRED if expired else JobState.CANCELLED)

    def _accompany(self, row: JobRow) -> None:
        """Let a job go with the one that it only repeats, as long as that one goes on."""
        leader = row.follows or ""
        other = self._registry.get(leader)
        if other is None or other.state in (JobState.CANCELLED, JobState.EXPIRED):
            log.info("%s: %s was stopped; it goes on by itself", row.id, leader)
            self._registry.note(row, follows=None)
        elif other.state is JobState.CANCELLING:
            return  # its driver may still be at the cache
        elif other.state is JobState.FAILED:
            detail = f"{other.error_detail} (as job {leader}, which did the same)"
            self._fail(row, Fault(code=other.error_code or "job", detail=detail))
        else:
            order = list(JobState)
            if other.progress is not None and other.progress != row.progress:
                self._note(row, Progress.model_validate(other.progress))
            while order.index(row.state) < order.index(other.state):
                state = order[order.index(row.state) + 1]
                row = self._registry.advance(
                    row, state, shards=other.shards, fingerprint=other.fingerprint
                )

    def _note(self, row: JobRow, progress: Progress) -> Progress | None:
        """Keep a job's progress and tell of it; give the one that was known before."""
        before = Progress.model_validate(row.progress) if row.progress else None
        if before is not None and progress.updated_at == before.updated_at:
            return progress
        dump = progress.model_dump(mode="json", exclude={"recent"})
        self._registry.note(row, events_between(before, progress), progress=dump)
        return before

    def _fail(self, row: JobRow, fault: Fault) -> None:
        log.warning("%s failed: %s", row.id, fault.detail)
        self._registry.advance(row, JobState.FAILED, fault)

    _steps = {  # noqa: RUF012 (a table, not a default)
        JobState.QUEUED: _start,
        JobState.IN_PROGRESS: _follow,
        JobState.FINALIZING: _follow,
        JobState.CANCELLING: _cancel,
    }


def _has_driver(row: JobRow) -> bool:
    """Whether it has one, or gets one next; a job that follows another never does."""
    if row.state is JobState.CANCELLING:
        return row.starts > 0
    return row.follows is None and row.state is not JobState.VALIDATING
