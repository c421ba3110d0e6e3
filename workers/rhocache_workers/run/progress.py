"""Counts the progress of a run, for a listener and for ``progress.json``."""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import (
    Fault,
    Phase,
    Progress,
    RunTotals,
    ShardOutcome,
    Step,
)
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import (
    CacheBusy,
    RhocacheError,
    ShardError,
    StorageError,
)
from rhocache_workers.messages import CommittedShard, ShardInProgress
from rhocache_workers.stage_times import Stages

RECENT = 500  # shards that the file names; those of a second, and then some
SECONDS = 1.0  # between two writes of the file while shards are encoded

OnProgress = Callable[[Progress], None]
Event = ShardInProgress | CommittedShard | ShardError


class ProgressLog:
    """Running totals, so that a shard costs the same however many there are."""

    def __init__(self, cache: str, job: str | None, listener: OnProgress | None) -> None:
        self._uri = layout.progress_file(cache)
        self._job = job
        self._listener = listener
        self._sizes: dict[str, int] = {}  # shard name -> bytes, of those that have not ended
        self._in_progress: dict[str, int] = {}  # shard name -> pairs seen so far
        self._phase: Phase = "planning"
        self._steps: list[Step] = []
        self._begun = False
        self._total = self._committed = self._failed = self._ended = 0  # shards
        self._started_at = time.time()
        self._recent: deque[ShardOutcome] = deque(maxlen=RECENT)
        self._pairs = self._bytes = 0  # of the committed shards
        self._failed_by_code: Counter[str] = Counter()  # of their pairs
        self._stages = Stages()  # of this run, as all that follows
        self._run_committed = self._run_ok = 0  # shards, and pairs of them
        self._run_reused = 0  # of the pairs that are ok
        self._run_failed: Counter[str] = Counter()  # pairs of them, by code
        self._shards_failed: Counter[str] = Counter()  # by code
        self._lost = 0  # pairs of shards that had to be begun again
        self._pairs_before = 0  # of them, those of earlier runs
        self._encoding_since = self._encoding_until = self._told = 0.0

    def plan(self, shards: Iterable[Shard]) -> None:
        """These shards are asked for. Nothing is written yet: the cache may refuse the run."""
        self._sizes = {shard.name: shard.size for shard in shards}
        self._total = len(self._sizes)

    def step(self, name: str) -> None:
        """Tell what the run does from now on, which may take its time before a pair is encoded."""
        now = time.time()
        self._end_step(now)
        self._steps.append(Step(name=name, started_at=now))
        if self._begun:
            self.enter(self._phase)
        elif self._listener is not None:
            self._listener(self._progress(None))

    def begin(self, committed: Iterable[CommittedShard], confirm: Callable[[], None]) -> None:
        """Begin to encode: these shards are committed.

        ``confirm`` raises where the file has become another run's.
        """
        self._confirm = confirm
        for shard in committed:
            self._count(shard)
        self._pairs_before = self._pairs
        self._encoding_since = self._encoding_until = time.monotonic()
        self.enter("encoding")

    def add(self, event: Event) -> None:
        if isinstance(event, ShardInProgress):
            self._lost += max(0, self._in_progress.get(event.shard, 0) - event.pairs)
            self._in_progress[event.shard] = event.pairs
        elif isinstance(event, ShardError):
            self._in_progress.pop(event.shard, None)
            del self._sizes[event.shard]
            self._failed += 1
            self._shards_failed[event.code] += 1
            self._end(ShardOutcome(shard=event.shard, code=event.code))
        else:
            self._count(event)
            row = event.index
            self._run_committed += 1
            self._run_ok += event.encoded - event.failures.total()
            self._run_reused += event.reused
            self._run_failed += event.failures
            took = None
            if event.stages is not None:
                self._stages.add(event.stages)
                took = round(event.stages.elapsed, 3)
            self._end(
                ShardOutcome(
                    shard=row.name,
                    rows=event.encoded,
                    failed=event.failures.total(),
                    seconds=took,
                    encoder=event.encoder,
                )
            )
        self._encoding_until = time.monotonic()
        if self._encoding_until - self._told >= SECONDS:
            self._told = self._encoding_until
            with suppress(StorageError):
                self._confirm()
                self.enter("encoding")

    def enter(self, phase: Phase, fault: Fault | None = None) -> None:
        """Tell of a phase, and of its fault where it is ``failed``.

        That the file can't be written just now stops no run: what must be written will say so.
        """
        if phase in ("failed", "cancelled") and not self._begun and self._job is None:
            return  # nothing was begun, so nothing is left behind
        self._begun, self._phase = True, phase
        self._told = time.monotonic()
        if phase in ("completed", "failed", "cancelled"):
            self._end_step(time.time())
        progress = self._progress(fault)
        if self._listener is not None:
            self._listener(progress)
        with suppress(RhocacheError):
            storage.write_atomic(self._uri, progress.to_json())

    @property
    def pairs_per_second(self) -> float:
        """Of this run's encoding; 0 while there is none."""
        seconds = self._encoding_until - self._encoding_since
        pairs = self._pairs + sum(self._in_progress.values()) - self._pairs_before
        return pairs / seconds if seconds else 0.0

    def _end_step(self, now: float) -> None:
        if self._steps:
            self._steps[-1] = self._steps[-1].model_copy(update={"ended_at": now})

    def _end(self, outcome: ShardOutcome) -> None:
        self._ended += 1
        self._recent.append(outcome)

    def _count(self, shard: CommittedShard) -> None:
        row = shard.index
        self._in_progress.pop(row.name, None)
        del self._sizes[row.name]
        self._committed += 1
        self._pairs += shard.encoded
        self._failed_by_code += shard.failures
        self._bytes += row.source_size

    def _progress(self, fault: Fault | None) -> Progress:
        return Progress(
            job=self._job,
            phase=self._phase,
            steps=list(self._steps),
            shards_total=self._total,
            shards_committed=self._committed,
            shards_failed=self._failed,
            pairs_done=self._pairs + sum(self._in_progress.values()),
            pairs_failed=self._failed_by_code.total(),
            failed_by_code=dict(self._failed_by_code),
            pairs_per_second=self.pairs_per_second,
            seconds_left=self._seconds_left(),
            limited_by=str(self._stages) if self._stages.elapsed else None,
            started_at=self._started_at,
            run=self._totals(),
            shards_ended=self._ended,
            shards_in_progress=list(self._in_progress) if self._phase == "encoding" else [],
            recent=list(self._recent),
            updated_at=time.time(),
            fault=fault,
        )

    def _totals(self) -> RunTotals:
        shares = self._stages.shares()
        return RunTotals(
            pairs_ok=self._run_ok,
            pairs_failed=dict(self._run_failed),
            pairs_reused=self._run_reused,
            pairs_lost=self._lost,
            shards_committed=self._run_committed,
            shards_failed=dict(self._shards_failed),
            encoder_seconds=self._stages.elapsed,
            stage_seconds={stage: part * self._stages.elapsed for stage, part in shares.items()},
        )

    def _seconds_left(self) -> float | None:
        """From the bytes that are left, and the pairs a byte of the committed shards."""
        rate = self.pairs_per_second
        if not (rate and self._bytes):
            return None
        pairs = sum(self._sizes.values()) * self._pairs / self._bytes
        return max(0.0, pairs - sum(self._in_progress.values())) / rate


@contextmanager
def telling(progress: ProgressLog, confirm: Callable[[], None] | None = None) -> Generator[None]:
    """Tell why a run ends, except in a progress file that is another run's by now.

    ``confirm`` raises where it is.
    """
    try:
        yield
    except CacheBusy:
        raise
    except (KeyboardInterrupt, Exception) as error:
        if confirm is not None:
            with suppress(StorageError):
                confirm()
        if isinstance(error, KeyboardInterrupt):
            progress.enter("cancelled")
        else:
            code = error.code if isinstance(error, RhocacheError) else "internal"
            progress.enter("failed", Fault(code=code, detail=str(error)))
        raise
