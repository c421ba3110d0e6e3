"""Scoring a dataset: plan, let encoders pull shards, commit."""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from rhocache_schemas import layout, storage
from rhocache_schemas.dataset import Shard, list_shards
from rhocache_schemas.errors import (
    ErrorBudgetExceeded,
    JobError,
    RhocacheError,
    ShardError,
)
from rhocache_schemas.job import JobSpec
from rhocache_schemas.records import Fault, Plan, Progress, ShardFailure
from rhocache_schemas.roots import check_allowed, named_locations
from rhocache_workers.commit import commit
from rhocache_workers.crew import Crew
from rhocache_workers.encoder import Description
from rhocache_workers.locations import absolute
from rhocache_workers.settled import SettledShard, is_done, read_settled

PROGRESS_SECONDS = 1.0

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """What a finished run left in its cache. ``dataclasses.asdict`` is the ``--json`` object."""

    cache: str
    rows: int
    ok: int
    failed: int
    shards: int  # in the cache
    failed_shards: int
    seconds: float  # of this run
    pairs_per_second: float  # of this run's encoding; 0 when nothing was left to encode
    fingerprint: str  # SHA-256 digest


def score(
    spec: JobSpec,
    *,
    ray_address: str | None = None,
    job: str | None = None,
    roots: list[str] | None = None,
    on_progress: OnProgress | None = None,
) -> ScoreSummary:
    """Score ``spec.dataset`` with ``spec.reference`` into the cache ``spec.output``.

    Only shards that are not done yet are encoded, so an interrupted run goes on where it was.
    ``ray_address`` joins a cluster; without it Ray is started here. ``job`` marks the progress
    file as a service's job; ``roots`` are the places that the job may name.

    Raises UriNotAllowed, DatasetError, ReferenceUnavailable, FingerprintMismatch (the cache was
    begun with another reference or options), StorageError, ErrorBudgetExceeded and JobError. Then,
    and on KeyboardInterrupt, committed shards stay and the same call goes on from them.
    """
    run = _Run(absolute(spec), job, roots, on_progress or (lambda _: None))
    try:
        summary = run.score(ray_address)
    except KeyboardInterrupt:
        run.report_end("cancelled")
        raise
    except RhocacheError as error:
        run.report_end("failed", Fault(code=error.code, detail=str(error)))
        raise
    run.report("completed")
    return summary


@dataclass
class _Run:
    spec: JobSpec
    job: str | None
    roots: list[str] | None
    on_progress: OnProgress
    shards: list[Shard] = field(default_factory=list)
    settled: dict[str, SettledShard] = field(default_factory=dict)
    failures: dict[str, ShardError] = field(default_factory=dict)
    encoded_pairs: int = 0
    started: float = field(default_factory=time.monotonic)
    encoding_since: float | None = None
    reported: float = 0.0

    def score(self, ray_address: str | None) -> ScoreSummary:
        self._check_allowed(named_locations(self.spec))
        self.shards = list_shards(self.spec.dataset, self.spec.shards)
        # Braces and symlinks may lead where the dataset's own name does not.
        self._check_allowed(shard.uri for shard in self.shards)
        self.report("planning")
        with Crew(self.spec, ray_address) as crew:
            description = crew.first_description()
            self._plan(description)
            digest = description.fingerprint.digest
            waiting = deque(self._not_done(digest))
            self.encoding_since = time.monotonic()
            for outcome in crew.encode(waiting, digest):
                self._settle(outcome)
        seconds_encoding = time.monotonic() - self.encoding_since
        self.report("finalizing")
        self._check_outcome()
        commit(self.spec, description, list(self.settled.values()), self.failures)
        return self._summary(digest, seconds_encoding)

    def _check_allowed(self, locations: Iterable[str]) -> None:
        if self.roots is not None:
            for location in locations:
                check_allowed(location, self.roots)

    def _plan(self, description: Description) -> None:
        """Begin the cache, or check that it was begun for the same."""
        uri = layout.plan_file(self.spec.output)
        if storage.exists(uri):
            Plan.read(uri).fingerprint.check_same(description.fingerprint, self.spec.output)
            return
        plan = Plan.begin(self.spec, description.fingerprint, [shard.name for shard in self.shards])
        storage.write_atomic(uri, plan.to_json())

    def _not_done(self, digest: str) -> Iterator[Shard]:
        for shard in self.shards:
            if is_done(self.spec.output, shard, digest):
                self.settled[shard.name] = read_settled(self.spec.output, shard)
            else:
                yield shard

    def _settle(self, outcome: SettledShard | ShardError) -> None:
        if isinstance(outcome, ShardError):
            self.failures[outcome.shard] = outcome
            record = ShardFailure.of(outcome)
            storage.write_atomic(
                layout.failure_file(self.spec.output, outcome.shard), record.to_json()
            )
        else:
            self.settled[outcome.index.name] = outcome
            self.encoded_pairs += outcome.index.rows
            storage.delete(layout.failure_file(self.spec.output, outcome.index.name))
        self.report("encoding")

    def _check_outcome(self) -> None:
        rows, failed = self._counts()
        if failed == rows:
            causes = Counter(
                [str(error.code) for error in self.failures.values()]
                + [code for shard in self.settled.values() for code in shard.failed_by_code]
            )
            first = next(iter(self.failures.values()), None)
            raise JobError(
                f"no pair of {self.spec.dataset} could be scored "
                f"({first or ', '.join(causes) or 'its shards are empty'})"
            )
        budget = self.spec.error_budget
        for what, part, whole in (
            ("pairs", failed, rows),
            ("shards", len(self.failures), len(self.shards)),
        ):
            if part > budget * whole:
                raise ErrorBudgetExceeded(
                    f"{part} of {whole} {what} failed, above the error budget of {budget:g}: the "
                    f"cache is not committed. A budget of {part / whole:.3g} accepts it, and "
                    "encodes nothing again"
                )

    def _counts(self) -> tuple[int, int]:
        """Rows and failed rows of the shards that are settled."""
        index = [shard.index for shard in self.settled.values()]
        return sum(row.rows for row in index), sum(row.failed for row in index)

    def report(self, phase: str, fault: Fault | None = None) -> None:
        """Tell the listener, and at most once a second or at a turn the progress file."""
        rows, failed = self._counts()
        elapsed = time.monotonic() - (self.encoding_since or time.monotonic())
        rate = self.encoded_pairs / elapsed if elapsed > 0 else 0.0
        done = len(self.settled) + len(self.failures)
        left = len(self.shards) - done
        progress = Progress(
            job=self.job,
            phase=phase,  # pyright: ignore[reportArgumentType]
            shards_total=len(self.shards),
            shards_done=len(self.settled),
            shards_failed=len(self.failures),
            pairs_done=rows,
            pairs_failed=failed,
            pairs_per_second=rate,
            seconds_left=left * (rows / len(self.settled)) / rate if rate else None,
            updated_at=time.time(),
            fault=fault,
        )
        self.on_progress(progress)
        now = time.monotonic()
        if phase == "encoding" and now - self.reported < PROGRESS_SECONDS:
            return
        self.reported = now
        storage.write_atomic(layout.progress_file(self.spec.output), progress.to_json())

    def report_end(self, phase: str, fault: Fault | None = None) -> None:
        """Report, beside an error that is on its way, what ended the run."""
        if not self.reported and self.job is None:
            return  # nothing was begun, so nothing is left behind
        with contextlib.suppress(RhocacheError):  # the error on its way says more
            self.report(phase, fault)

    def _summary(self, digest: str, seconds_encoding: float) -> ScoreSummary:
        rows, failed = self._counts()
        return ScoreSummary(
            cache=self.spec.output,
            rows=rows,
            ok=rows - failed,
            failed=failed,
            shards=len(self.settled),
            failed_shards=len(self.failures),
            seconds=time.monotonic() - self.started,
            pairs_per_second=self.encoded_pairs / seconds_encoding if self.encoded_pairs else 0.0,
            fingerprint=digest,
        )
