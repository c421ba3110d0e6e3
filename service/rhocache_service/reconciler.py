"""Moving jobs on: from what the registry, Ray and the cache say to the state that follows."""

import logging
import time
from collections.abc import Callable

from structlog.contextvars import bound_contextvars

from rhocache_schemas import layout, storage
from rhocache_schemas.errors import JobStateConflict, RhocacheError
from rhocache_schemas.job import JobState
from rhocache_schemas.records import Fault, Manifest, Progress
from rhocache_schemas.roots import allowed_shards, check_job, true_place
from rhocache_service import happenings
from rhocache_service.database import JobRow
from rhocache_service.drivers import Drivers, DriverState
from rhocache_service.leadership import Leadership
from rhocache_service.registry import Registry
from rhocache_service.validation import check_dataset

log = logging.getLogger(__name__)

STARTS = 3  # drivers that a job may lose before it fails
PATIENCE_SECONDS = 60.0  # in which a driver that Ray does not know is the same start, made again
_RUNNING = (JobState.IN_PROGRESS, JobState.FINALIZING, JobState.CANCELLING)


class Reconciler:
    """Holds no state of its own: a restarted service goes on from the registry."""

    def __init__(
        self,
        registry: Registry,
        leadership: Leadership,
        drivers: Callable[[], Drivers],
        roots: list[str],
        max_running_jobs: int,
    ) -> None:
        self._registry = registry
        self._leadership = leadership
        self._drivers = drivers  # called each time, since Ray may have been started anew
        self._roots = roots
        self._max_running_jobs = max_running_jobs
        self._busy: list[tuple[str, tuple[str, ...]]] = []  # caches that have a driver

    def step(self) -> None:
        """Look at every unfinished job once, with Ray up and ready for the next."""
        self._drivers()  # each service says by itself whether it reaches Ray
        if not self._leadership.hold():
            return
        rows = self._registry.active()
        self._busy = [
            true_place(row.spec["output"])
            for row in rows
            if row.state in _RUNNING and row.follows is None
        ]
        for row in rows:
            with bound_contextvars(job=row.id):
                self._look_at(row)

    def _look_at(self, row: JobRow) -> None:
        try:
            if row.deadline is not None and time.time() > row.deadline:
                row = self._expire(row)
            if row.state is JobState.CANCELLING or row.follows is None:
                self._steps[row.state](self, row)
            elif not row.state.terminal:
                self._accompany(row, row.follows)
        except JobStateConflict as error:
            log.info("%s: %s", row.id, error)  # someone else moved it; look again next time
        except RhocacheError as error:
            log.warning("%s: %s", row.id, error)
        except Exception:
            log.exception("%s: unforeseen", row.id)  # the jobs after it must go on

    def _expire(self, row: JobRow) -> JobRow:
        """Stop a job whose deadline has passed, unless it is about to be completed anyway."""
        if row.state in (JobState.VALIDATING, JobState.QUEUED):
            return self._registry.advance(row, JobState.EXPIRED)
        if row.state is JobState.IN_PROGRESS:
            return self._registry.advance(row, JobState.CANCELLING, stopped_by="deadline")
        return row

    def _validate(self, row: JobRow) -> None:
        spec = row.job_spec()
        try:
            check_job(spec, self._roots)
            shards = allowed_shards(spec, self._roots)
            check_dataset(spec, shards)
        except RhocacheError as error:
            self._fail(row, Fault(code=error.code, detail=str(error)))
            return
        self._registry.advance(row, JobState.QUEUED, shards=len(shards))

    def _start(self, row: JobRow) -> None:
        if len(self._busy) >= self._max_running_jobs:
            return
        cache = true_place(row.spec["output"])
        if cache in self._busy:
            return  # one driver a cache
        # The registry first: a start that Ray never saw is made again, two would race.
        row = self._registry.advance(row, JobState.IN_PROGRESS, starts=1, started_at=time.time())
        self._busy.append(cache)
        self._drivers().start(row, 1)

    def _follow(self, row: JobRow) -> None:
        state = self._drivers().state(row.id, row.starts)
        progress = _progress(row)
        if progress is not None and (before := self._note(row, progress)) is not progress:
            happenings.count(before, progress)
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
        elif state is DriverState.UNKNOWN and time.time() - row.started_at < PATIENCE_SECONDS:
            # It never arrived, as Ray was still starting, or Ray has been started anew since.
            log.info("%s: Ray does not know its driver; starting it again", row.id)
            self._drivers().start(row, row.starts)
        elif row.starts < STARTS:
            log.warning("%s: its driver is lost (%s); starting another", row.id, state)
            if self._registry.note(row, starts=row.starts + 1, started_at=time.time()):
                self._drivers().start(row, row.starts + 1)
        else:
            line = self._drivers().last_line(row.id, row.starts)
            detail = f"its driver was lost {STARTS} times; the last one said: {line}"
            self._fail(row, Fault(code="job", detail=detail))

    def _complete(self, row: JobRow) -> None:
        uri = layout.manifest_file(row.spec["output"])
        if not storage.exists(uri):
            detail = f"its driver ended well, but {row.spec['output']} has no {layout.MANIFEST}"
            self._fail(row, Fault(code="cache-incomplete", detail=detail))
            return
        fingerprint = Manifest.read(uri).fingerprint_sha256
        if row.state is JobState.IN_PROGRESS:
            row = self._registry.advance(row, JobState.FINALIZING)
        self._registry.caches.add(row.spec["output"], fingerprint, row.id, int(time.time()))
        self._registry.advance(row, JobState.COMPLETED, fingerprint=fingerprint)

    def _cancel(self, row: JobRow) -> None:
        if row.starts:
            drivers = self._drivers()
            if drivers.state(row.id, row.starts) is DriverState.RUNNING:
                drivers.stop(row.id, row.starts)
                return
            progress = _progress(row)
            if progress is not None:
                self._note(row, progress)
        expired = row.stopped_by == "deadline"
        self._registry.advance(row, JobState.EXPIRED if expired else JobState.CANCELLED)

    def _accompany(self, row: JobRow, leader: str) -> None:
        """Let a job go with the one that it only repeats, as long as that one goes on."""
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
                changes = {"shards": other.shards, "fingerprint": other.fingerprint}
                row = self._registry.advance(row, order[order.index(row.state) + 1], **changes)

    def _note(self, row: JobRow, progress: Progress) -> Progress | None:
        """Keep a job's progress and tell of it; give the one that was known before."""
        before = Progress.model_validate(row.progress) if row.progress else None
        if before is not None and progress.updated_at == before.updated_at:
            return progress
        dump = progress.model_dump(mode="json", exclude={"recent"})
        self._registry.note(row, happenings.between(before, progress), progress=dump)
        return before

    def _fail(self, row: JobRow, fault: Fault) -> None:
        log.warning("%s failed: %s", row.id, fault.detail)
        self._registry.advance(row, JobState.FAILED, fault)

    _steps = {  # noqa: RUF012 (a table, not a default)
        JobState.VALIDATING: _validate,
        JobState.QUEUED: _start,
        JobState.IN_PROGRESS: _follow,
        JobState.FINALIZING: _follow,
        JobState.CANCELLING: _cancel,
        JobState.EXPIRED: lambda self, row: None,  # noqa: ARG005
    }


def _progress(row: JobRow) -> Progress | None:
    """What this job's driver last said; not what an earlier job said of the same cache."""
    uri = layout.progress_file(row.spec["output"])
    if not storage.exists(uri):
        return None
    progress = Progress.read(uri)
    return progress if progress.job == row.id else None
