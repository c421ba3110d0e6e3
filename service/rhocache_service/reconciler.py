"""Moving jobs on: from what the registry, Ray and the cache say to the state that follows."""

import logging
import time
from collections.abc import Callable

from rhocache_schemas import layout, storage
from rhocache_schemas.dataset import list_shards
from rhocache_schemas.errors import JobStateConflict, RhocacheError
from rhocache_schemas.job import JobState
from rhocache_schemas.locations import named_locations
from rhocache_schemas.records import Fault, Progress
from rhocache_schemas.roots import check_allowed, true_place
from rhocache_service.drivers import Drivers, DriverState
from rhocache_service.registry import JobRow, Registry

log = logging.getLogger(__name__)

STARTS = 3  # drivers that a job may lose before it fails
PATIENCE_SECONDS = 60.0  # in which a driver that Ray does not know is the same start, made again


class Reconciler:
    """Holds no state of its own: a restarted service goes on from the registry."""

    def __init__(
        self,
        registry: Registry,
        drivers: Callable[[], Drivers],
        roots: list[str],
        max_running_jobs: int,
    ) -> None:
        self._registry = registry
        self._drivers = drivers  # called each time, since Ray may have been started anew
        self._roots = roots
        self._max_running_jobs = max_running_jobs

    def step(self) -> None:
        """Look at every unfinished job once, with Ray up and ready for the next."""
        self._drivers()
        for row in self._registry.active():
            try:
                self._steps[row.state](self, row)
            except JobStateConflict as error:
                log.info("%s: %s", row.id, error)  # someone else moved it; look again next time
            except RhocacheError as error:
                log.warning("%s: %s", row.id, error)
            except Exception:
                log.exception("%s: unforeseen", row.id)  # the jobs after it must go on

    def _validate(self, row: JobRow) -> None:
        spec = row.job_spec()
        try:
            for location in named_locations(spec):
                check_allowed(location, self._roots)
            shards = list_shards(spec.dataset, spec.shards)
            for shard in shards:
                check_allowed(shard.uri, self._roots)
        except RhocacheError as error:
            self._fail(row, Fault(code=error.code, detail=str(error)))
            return
        self._registry.advance(row, JobState.QUEUED, shards=len(shards))

    def _start(self, row: JobRow) -> None:
        running = [
            other
            for other in self._registry.active()
            if other.state in (JobState.IN_PROGRESS, JobState.FINALIZING, JobState.CANCELLING)
        ]
        if len(running) >= self._max_running_jobs:
            return
        cache = true_place(row.spec["output"])
        if any(true_place(other.spec["output"]) == cache for other in running):
            return  # one driver a cache
        # The registry first: a start that Ray never saw is made again, two would race.
        row = self._registry.advance(row, JobState.IN_PROGRESS, starts=1, started_at=time.time())
        self._drivers().start(row, 1)

    def _follow(self, row: JobRow) -> None:
        state = self._drivers().state(row.id, row.starts)
        progress = _progress(row)
        if progress is not None:
            self._registry.note(row, progress=progress.model_dump(mode="json"))
        if progress is not None and progress.fault is not None and state is not DriverState.RUNNING:
            self._fail(row, progress.fault)
        elif state is DriverState.SUCCEEDED:
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
            self._registry.note(row, starts=row.starts + 1, started_at=time.time())
            self._drivers().start(row, row.starts + 1)
        else:
            line = self._drivers().last_line(row.id, row.starts)
            detail = f"its driver was lost {STARTS} times; the last one said: {line}"
            self._fail(row, Fault(code="job", detail=detail))

    def _complete(self, row: JobRow) -> None:
        if row.state is JobState.IN_PROGRESS:
            row = self._registry.advance(row, JobState.FINALIZING)
        if storage.exists(layout.manifest_file(row.spec["output"])):
            self._registry.advance(row, JobState.COMPLETED)
        else:
            detail = f"its driver ended well, but {row.spec['output']} has no {layout.MANIFEST}"
            self._fail(row, Fault(code="cache-incomplete", detail=detail))

    def _cancel(self, row: JobRow) -> None:
        if row.starts:
            drivers = self._drivers()
            if drivers.state(row.id, row.starts) is DriverState.RUNNING:
                drivers.stop(row.id, row.starts)
                return
            progress = _progress(row)
            if progress is not None:
                self._registry.note(row, progress=progress.model_dump(mode="json"))
        self._registry.advance(row, JobState.CANCELLED)

    def _fail(self, row: JobRow, fault: Fault) -> None:
        log.warning("%s failed: %s", row.id, fault.detail)
        self._registry.advance(row, JobState.FAILED, fault)

    _steps = {  # noqa: RUF012 (a table, not a default)
        JobState.VALIDATING: _validate,
        JobState.QUEUED: _start,
        JobState.IN_PROGRESS: _follow,
        JobState.FINALIZING: _follow,
        JobState.CANCELLING: _cancel,
    }


def _progress(row: JobRow) -> Progress | None:
    """What this job's driver last said; not what an earlier job said of the same cache."""
    uri = layout.progress_file(row.spec["output"])
    if not storage.exists(uri):
        return None
    progress = Progress.read(uri)
    return progress if progress.job == row.id else None
