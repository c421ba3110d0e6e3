"""Scores a dataset: plans, lets encoders pull shards, commits."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Plan, ShardFailure
from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.cache.lease import Lease
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.reusable import open_reusable
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import ErrorBudgetExceeded, JobError, ShardError
from rhocache_schemas.job.allowed_roots import check_job, open_allowed
from rhocache_schemas.job.kinds.score import PAIRS_BUDGET, SHARDS_BUDGET, ScoreSpec
from rhocache_schemas.job.paths import absolute
from rhocache_schemas.text import printable
from rhocache_workers.encode.reuse import Table, tabulate
from rhocache_workers.messages import CommittedShard, Description, ShardInProgress
from rhocache_workers.reference.names import check_reference
from rhocache_workers.run.commit import commit
from rhocache_workers.run.progress import Event, OnProgress, ProgressLog, telling
from rhocache_workers.run.resume import Resume, choose_shards, resume, with_format
from rhocache_workers.run.segments import Segments, clear_segments
from rhocache_workers.run.signals import sigterm_as_interrupt
from rhocache_workers.run.standing import Standing, hash_reference
from rhocache_workers.stage_times import Stages

if TYPE_CHECKING:
    from rhocache_workers.cluster.actor_pool import Crew
    from rhocache_workers.encode.here import CrewHere

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """What a finished run left in its cache. ``dataclasses.asdict`` is the ``--json`` object."""

    cache: str
    rows: int
    ok: int
    failed: int
    failed_by_code: dict[str, int]
    shards: int  # in the cache
    encoded_shards: int  # of them, by this run
    reused_pairs: int  # of their pairs, those whose rows other caches had
    gone_shards: int  # of them, those that the dataset no longer has
    failed_shards: int
    failures: dict[str, str]  # name of a failed shard -> why
    seconds: float  # of this run
    encoder_seconds: float  # that encoders were at work in this run, added up
    pairs_per_second: float  # of this run's encoding; 0 when nothing was left to encode
    limited_by: str  # the stage that was busiest, and the others
    fingerprint: str  # SHA-256 digest
    warning: str | None = None  # of the reference


def score(
    spec: ScoreSpec,
    *,
    ray_address: str | None = None,
    here: bool = False,
    job: str | None = None,
    roots: list[str] | None = None,
    on_progress: OnProgress | None = None,
    redo: Collection[str] | None = None,
    rebuild_index: bool = False,
) -> ScoreSummary:
    """Score ``spec.dataset`` with ``spec.reference`` into the cache ``spec.output``.

    Only shards that are not done yet are encoded, so an interrupted run goes on where it was; what
    else the cache holds of the dataset stays in it. Where nothing is left to encode, neither Ray
    nor the reference is started. ``ray_address`` joins a cluster; without it Ray is started on this
    machine, and with ``here`` this process is the only encoder, without Ray. ``job`` marks the
    progress file as a service's job; ``roots`` are the places that the job may name. ``redo`` names
    the shards to encode, again and none else. ``rebuild_index`` makes the index anew from the shard
    files where it is damaged or missing, as ``spec.replace`` does.

    Raises InvalidInput for a model that there is not, UriNotAllowed, DatasetError, CacheBusy
    (another run is at work on the cache), DatasetMismatch (the cache holds another dataset),
    ReferenceUnavailable, FingerprintMismatch (the cache was begun with another reference or
    options), StorageError, CacheCorrupt or CacheIncomplete (a file of it is damaged or missing),
    ErrorBudgetExceeded and JobError, and what ``open_reusable`` raises. Then, and on
    KeyboardInterrupt, committed shards stay and the same call goes on from them.
    """
    started = time.monotonic()
    spec = absolute(spec)
    storage.check_writable(spec.output)
    if roots is not None:
        check_job(spec, roots)
    progress = ProgressLog(spec.output, job, on_progress)
    with ExitStack() as stack:
        with telling(progress):
            check_reference(spec.reference)
            spec = with_format(spec, roots)
            shards = choose_shards(spec, roots, redo)
            lease = stack.enter_context(Lease(spec.output, job))
        with telling(progress, lease.confirm):
            progress.plan(shards)
            progress.step("looking at what is done")
            standing = Standing.of(spec.output, rebuild_index=rebuild_index or spec.replace)
            outcome = _run(
                spec,
                shards,
                standing,
                roots,
                lease,
                progress,
                partial(_crew, spec, ray_address, here=here),
                redo=redo is not None,
            )
            progress.enter("completed")
    return ScoreSummary(
        cache=spec.output,
        rows=outcome.rows,
        ok=outcome.rows - outcome.failed,
        failed=outcome.failed,
        failed_by_code=dict(outcome.failed_by_code),
        shards=len(outcome.committed),
        encoded_shards=outcome.encoded,
        reused_pairs=outcome.reused,
        gone_shards=outcome.gone,
        failed_shards=len(outcome.failures),
        failures={
            name: f"{error.code}: {error.detail}" for name, error in outcome.failures.items()
        },
        seconds=time.monotonic() - started,
        encoder_seconds=outcome.stages.elapsed,
        pairs_per_second=progress.pairs_per_second,
        limited_by=str(outcome.stages),
        fingerprint=outcome.fingerprint.digest,
        warning=outcome.warning,
    )


@dataclass
class _Outcome:
    """What became of the cache's shards, by their names."""

    fingerprint: Fingerprint
    committed: dict[str, CommittedShard]
    failures: dict[str, ShardError]
    failed_before: frozenset[str]  # in earlier runs
    gone: int  # shards that the dataset no longer has
    warning: str | None  # of the reference
    encoded: int = 0  # shards, by this run
    reused: int = 0  # of their pairs
    stages: Stages = field(default_factory=Stages)  # of this run

    @property
    def rows(self) -> int:
        """Pairs that were to be encoded: without those that are beyond a job's limit."""
        return sum(shard.encoded for shard in self.committed.values())

    @property
    def failed(self) -> int:
        return self.failed_by_code.total()

    @property
    def failed_by_code(self) -> Counter[str]:
        return sum((shard.failures for shard in self.committed.values()), Counter[str]())


def _run(
    spec: ScoreSpec,
    shards: list[Shard],
    standing: Standing,
    roots: list[str] | None,
    lease: Lease,
    progress: ProgressLog,
    crew_of: Callable[[dict[str, int], Callable[[str], None]], "Crew | CrewHere"],
    *,
    redo: bool,
) -> _Outcome:
    left = resume(spec, shards, standing, roots, redo=redo)
    progress.enter("planning")
    if standing.fingerprint is not None and not spec.replace:
        standing.fingerprint.check_options(spec)
    storage.discard_temporaries(spec.output)
    reference_sha256 = hash_reference(spec.reference)
    description = None if left.todo else standing.description(spec, reference_sha256)
    with ExitStack() as stack:
        crew = None
        if description is None:
            reusable = open_reusable(spec)
            sizes = standing.plan.batch_sizes if standing.plan else {}
            crew = stack.enter_context(crew_of(sizes, progress.step))
            stack.enter_context(sigterm_as_interrupt())
            description = crew.describe()
            if spec.replace and standing.fingerprint not in (None, description.fingerprint):
                left = left.afresh(shards)
            if left.todo and reusable:
                progress.step("looking at what other caches have")
                crew.reuse(_tables(reusable, description.fingerprint))
        if description.warning is not None:
            log.warning("%s", printable(description.warning))
        _begin(spec, description, shards, standing, left, lease)
        outcome = _Outcome(
            description.fingerprint,
            left.keep,
            left.failures,
            left.failed_before,
            left.gone,
            description.warning,
        )
        asked = {shard.name for shard in shards}
        kept = [shard for name, shard in left.keep.items() if name in asked]
        progress.begin(kept, lease.confirm)
        segments = Segments(spec.output, description.fingerprint.digest, lease.confirm)
        if crew is not None:
            progress.step("encoding")
            segments.begin(left.keep.values(), standing.index.keys())
            stack.callback(segments.flush)
        for event in crew.encode(left.todo) if crew else ():
            _note(spec.output, event, outcome)
            if isinstance(event, CommittedShard):
                segments.add(outcome.committed[event.index.name])
            progress.add(event)
    lease.confirm()
    storage.discard_temporaries(spec.output)  # of encoders that were killed
    progress.enter("finalizing")
    progress.step("committing")
    _check(spec, roots, outcome)
    commit(
        spec,
        description,
        reference_sha256,
        list(outcome.committed.values()),
        outcome.failures,
        lease.confirm,
        standing.origin(description.fingerprint),
    )
    clear_segments(spec.output)
    return outcome


def _tables(caches: list[CacheReader], fingerprint: Fingerprint) -> list[Table]:
    """Raises FingerprintMismatch, CacheIncomplete, CacheCorrupt and StorageError."""
    for cache in caches:
        cache.manifest.fingerprint.check_reusable(fingerprint, cache.uri)
    return [tabulate(cache) for cache in caches]


def _crew(
    spec: ScoreSpec,
    ray_address: str | None,
    sizes: dict[str, int],
    on_step: Callable[[str], None],
    *,
    here: bool,
) -> "Crew | CrewHere":
    """Imported where they are wanted: a run with nothing left to encode waits for neither."""
    if here:
        on_step("starting an encoder")
        from rhocache_workers.encode.here import CrewHere

        return CrewHere(spec, sizes, on_step)
    from rhocache_workers.cluster.actor_pool import Crew

    return Crew(spec, ray_address, sizes, on_step)


def _begin(
    spec: ScoreSpec,
    description: Description,
    shards: list[Shard],
    standing: Standing,
    left: Resume,
    lease: Lease,
) -> None:
    """Begin the cache, or check that it was begun for the same; let go what was asked to go.

    Raises FingerprintMismatch.
    """
    made, plan = standing.fingerprint, standing.plan
    if made is not None and not spec.replace:
        made.check_same(description.fingerprint, spec.output)
    other = (
        plan is None
        or made != description.fingerprint
        or (plan.spec.dataset != spec.dataset and (spec.replace or left.empty))
    )
    if left.dropped or (other and not left.empty):
        # A reader finds an incomplete cache, never a manifest that lies.
        lease.confirm()
        storage.delete(layout.manifest_file(spec.output))
    for name in left.dropped:
        storage.delete(layout.shard_file(spec.output, name))
        storage.delete(layout.failure_file(spec.output, name))
    for name in left.failed_before & left.keep.keys():  # a run that died before it did this
        storage.delete(layout.failure_file(spec.output, name))
    if other:
        lease.confirm()
        sizes = {description.device: description.batch_size} if description.device else {}
        names = [shard.name for shard in shards]
        begun = Plan.begin(spec, description.fingerprint, names, sizes)
        storage.write_atomic(layout.plan_file(spec.output), begun.to_json())


def _note(cache: str, event: Event, outcome: _Outcome) -> None:
    if isinstance(event, ShardError):
        outcome.failures[event.shard] = event
        uri = layout.failure_file(cache, event.shard)
        storage.write_atomic(uri, ShardFailure.of(event).to_json())
    elif not isinstance(event, ShardInProgress):
        name = event.index.name
        # Kept until the commit, for each of maybe 100,000 shards: no more than the index needs.
        outcome.committed[name] = replace(event, stages=None)
        outcome.encoded += 1
        outcome.reused += event.reused
        if event.stages is not None:
            outcome.stages.add(event.stages)
        if name in outcome.failed_before:
            storage.delete(layout.failure_file(cache, name))


def _check(spec: ScoreSpec, roots: list[str] | None, outcome: _Outcome) -> None:
    """Raises JobError when there is not one usable row, and ErrorBudgetExceeded."""
    rows, failed = outcome.rows, outcome.failed
    if failed == rows:
        first = next(iter(outcome.failures.values()), None)
        raise JobError(
            f"no pair of {spec.dataset} could be scored "
            f"({first or ', '.join(outcome.failed_by_code) or 'its shards are empty'}): "
            + open_allowed(spec.source, spec.format, roots).describe()
        )
    tried = len(outcome.failures.keys() | outcome.committed.keys())
    for what, part, whole, default in (
        ("pairs", failed, rows, PAIRS_BUDGET),
        ("shards", len(outcome.failures), tried, SHARDS_BUDGET),
    ):
        budget = default if spec.error_budget is None else spec.error_budget
        if part > budget * whole:
            raise ErrorBudgetExceeded(
                f"{part} of {whole} {what} failed, above the error budget of {budget:g}: the cache "
                f"is not committed. `rhocache errors {spec.output}` tells what failed; run it "
                f"again with --error-budget {_enough(part / whole)} to commit it without encoding "
                "again"
            )


def _enough(share: float) -> str:
    """A budget that a share is within, of two digits."""
    return f"{min(1.0, math.ceil(100 * share) / 100):g}"
