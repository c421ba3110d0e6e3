"""Scores a dataset: plans, lets encoders pull shards, commits."""

import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rhocache_schemas import storage
from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.cache.lease import Lease
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.reusable import open_reusable
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import ShardError
from rhocache_schemas.job.allowed_roots import check_job
from rhocache_schemas.job.apart import check_apart
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.paths import absolute
from rhocache_schemas.job.reference_output import ReferenceOutput
from rhocache_workers.encode.reuse import Table, tabulate
from rhocache_workers.messages import BatchSizes, CommittedShard, ShardInProgress
from rhocache_workers.reference.names import check_reference
from rhocache_workers.run.one_cache import OneCache
from rhocache_workers.run.progress import OnProgress, ProgressLog, telling
from rhocache_workers.run.resume import choose_shards, resume, with_format
from rhocache_workers.run.signals import sigterm_as_interrupt
from rhocache_workers.run.standing import Standing
from rhocache_workers.stage_times import Stages

if TYPE_CHECKING:
    from rhocache_workers.cluster.actor_pool import Crew
    from rhocache_workers.encode.here import CrewHere

OnStep = Callable[[str], None]
CrewOf = Callable[[ScoreSpec, BatchSizes], "Crew | CrewHere"]


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
    also: "list[ScoreSummary]" = field(default_factory=list["ScoreSummary"])  # of other references


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

    Each pair is read and decoded once for it and for the references of ``spec.also``, whose caches
    become what a job of their own would make. Only shards that are not done yet are encoded, so an
    interrupted run goes on where it was; what else the cache holds of the dataset stays in it.
    Where nothing is left to encode, neither Ray nor the reference is started. ``ray_address`` joins
    a cluster; without it Ray is started on this machine, and with ``here`` this process is the only
    encoder, without Ray. ``job`` marks the progress file as a service's job; ``roots`` are the
    places that the job may name. ``redo`` names the shards to encode, again and none else.
    ``rebuild_index`` makes the index anew from the shard files where it is damaged or missing, as
    ``spec.replace`` does.

    Raises InvalidInput for a model that there is not and as check_apart does, UriNotAllowed,
    DatasetError, CacheBusy (another run is at work on the cache), DatasetMismatch (the cache holds
    another dataset), ReferenceUnavailable, FingerprintMismatch (the cache was begun with another
    reference or options), StorageError, CacheCorrupt or CacheIncomplete (a file of it is damaged or
    missing), ErrorBudgetExceeded and JobError, and what ``open_reusable`` raises. Then, and on
    KeyboardInterrupt, committed shards stay and the same call goes on from them.
    """
    started = time.monotonic()
    spec = absolute(spec)
    check_apart(spec)
    for output in spec.outputs:
        storage.check_writable(output)
    if roots is not None:
        check_job(spec, roots)
    progress = ProgressLog(spec.output, job, on_progress)

    def crew_of(asked: ScoreSpec, sizes: BatchSizes) -> "Crew | CrewHere":
        return _crew(asked, ray_address, sizes, progress.step, here=here)

    with ExitStack() as stack:
        with telling(progress):
            for each in spec.each:
                check_reference(each.reference)
            spec = with_format(spec, roots)
            shards = choose_shards(spec, roots, redo)
            leases = [stack.enter_context(Lease(output, job)) for output in spec.outputs]
        with telling(progress, leases[0].confirm):
            progress.plan(shards)
            progress.step("looking at what is done")
            caches: list[OneCache] = []
            for each, lease in zip(spec.each, leases, strict=True):
                rebuild = rebuild_index or spec.replace
                standing = Standing.of(each.output, rebuild_index=rebuild)
                left = resume(each, shards, standing, roots, redo=redo is not None)
                caches.append(OneCache(each, standing, left, lease.confirm))
            stages = _run(spec, shards, caches, progress, crew_of)
            _commit(caches, roots, progress)
            progress.enter("completed")
    own, *others = (
        _summary(cache, stages, progress.pairs_per_second, time.monotonic() - started)
        for cache in caches
    )
    return replace(own, also=others)


def _summary(cache: OneCache, stages: Stages, rate: float, seconds: float) -> ScoreSummary:
    return ScoreSummary(
        cache=cache.spec.output,
        rows=cache.rows,
        ok=cache.rows - cache.failed,
        failed=cache.failed,
        failed_by_code=dict(cache.failed_by_code),
        shards=len(cache.committed),
        encoded_shards=cache.encoded,
        reused_pairs=cache.reused,
        gone_shards=cache.left.gone,
        failed_shards=len(cache.failures),
        failures={name: f"{error.code}: {error.detail}" for name, error in cache.failures.items()},
        seconds=seconds,
        encoder_seconds=stages.elapsed,
        pairs_per_second=rate,
        limited_by=str(stages),
        fingerprint=cache.described.fingerprint.digest,
        warning=cache.described.warning,
    )


def _run(
    spec: ScoreSpec,
    shards: list[Shard],
    caches: list[OneCache],
    progress: ProgressLog,
    crew_of: CrewOf,
) -> Stages:
    progress.enter("planning")
    for cache in caches:
        cache.look()
    wanting = [cache for cache in caches if cache.description is None]
    stages = Stages()
    with ExitStack() as stack:
        crew = None
        if wanting:
            reusable = open_reusable(spec)
            plans = {cache.spec.output: cache.standing.plan for cache in wanting}
            sizes = {output: plan.batch_sizes for output, plan in plans.items() if plan}
            crew = stack.enter_context(crew_of(_together(wanting), sizes))
            stack.enter_context(sigterm_as_interrupt())
            for cache, description in zip(wanting, crew.describe().each, strict=True):
                cache.describe(description, shards)
            if wanting[0].left.todo and reusable:
                progress.step("looking at what other caches have")
                crew.reuse(_tables(reusable, wanting[0].described.fingerprint))
        for cache in caches:
            cache.begin(shards)
        progress.begin(_kept_by_all(caches, shards), caches[0].confirm)
        if crew is not None:
            progress.step("encoding")
            for cache in wanting:
                cache.note_kept()
                stack.callback(cache.flush)
            _encode(crew, wanting, shards, progress, stages)
    for cache in caches:
        cache.end()
    return stages


def _commit(caches: list[OneCache], roots: list[str] | None, progress: ProgressLog) -> None:
    progress.enter("finalizing")
    progress.step("committing")
    for cache in caches:
        cache.check(roots)
    for cache in caches:
        cache.commit()


def _encode(
    crew: "Crew | CrewHere",
    caches: list[OneCache],
    shards: list[Shard],
    progress: ProgressLog,
    stages: Stages,
) -> None:
    """Encode what the caches lack, of which the crew holds the references in this order."""
    for into, todo in _groups(caches, shards).items():
        lacking = [caches[number] for number in into]
        for event in crew.encode(todo, into if len(into) < len(caches) else None):
            if not isinstance(event, ShardInProgress):
                _note(event, lacking, stages)
            progress.add(event)


def _together(caches: list[OneCache]) -> ScoreSpec:
    """The job of these caches' references."""
    own, *others = (cache.spec for cache in caches)
    also = [ReferenceOutput(reference=spec.reference, output=spec.output) for spec in others]
    return own.model_copy(update={"also": also})


def _kept_by_all(caches: list[OneCache], shards: list[Shard]) -> list[CommittedShard]:
    """Of the shards that a job asks for, those that every cache has; as the first one has them."""
    own = caches[0].left.keep
    names = [shard.name for shard in shards if all(shard.name in c.left.keep for c in caches)]
    return [own[name] for name in names]


def _groups(caches: list[OneCache], shards: list[Shard]) -> dict[tuple[int, ...], list[Shard]]:
    """The shards to encode, by the numbers of the caches that lack them."""
    lacking = [{shard.name for shard in cache.left.todo} for cache in caches]
    groups: dict[tuple[int, ...], list[Shard]] = {}
    for shard in shards:
        into = tuple(number for number, names in enumerate(lacking) if shard.name in names)
        if into:
            groups.setdefault(into, []).append(shard)
    return groups


def _note(event: CommittedShard | ShardError, caches: list[OneCache], stages: Stages) -> None:
    """Note what became of a shard in each of the caches that lacked it."""
    if isinstance(event, CommittedShard) and event.stages is not None:
        stages.add(event.stages)
    each = [event] * len(caches) if isinstance(event, ShardError) else event.each
    for cache, outcome in zip(caches, each, strict=True):
        cache.note(outcome)


def _tables(caches: list[CacheReader], fingerprint: Fingerprint) -> list[Table]:
    """Raises FingerprintMismatch, CacheIncomplete, CacheCorrupt and StorageError."""
    for cache in caches:
        cache.manifest.fingerprint.check_reusable(fingerprint, cache.uri)
    return [tabulate(cache) for cache in caches]


def _crew(
    spec: ScoreSpec,
    ray_address: str | None,
    sizes: BatchSizes,
    on_step: OnStep,
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
