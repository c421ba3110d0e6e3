"""Makes a table from a cache: takes its lease, has its kind's work done, commits."""

import hashlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.lease import Lease
from rhocache_schemas.cache.listing import list_files, shard_files
from rhocache_schemas.errors import CacheCorrupt
from rhocache_schemas.job.allowed_roots import check_allowed, check_job
from rhocache_schemas.job.kinds import JobOrder
from rhocache_schemas.job.over_cache import CacheJobSpec
from rhocache_schemas.job.paths import absolute
from rhocache_schemas.table import files
from rhocache_schemas.table.documents import Summary, TableManifest, TablePlan
from rhocache_schemas.table.reader import TableReader
from rhocache_schemas.table.standing import check_output
from rhocache_workers.over_cache.compute import Compute, ComputeOnRay, compute_here
from rhocache_workers.over_cache.run import Run, units
from rhocache_workers.over_cache.target import Target, open_cache
from rhocache_workers.over_cache.work import Work
from rhocache_workers.run.progress import OnProgress, ProgressLog, telling

_SOFTWARE = ("rhocache", "pyarrow", "numpy", "torch")


def make_table(
    spec: CacheJobSpec,
    work: type[Work[Any]],
    *,
    ray_address: str | None = None,
    here: bool = False,
    job: str | None = None,
    roots: list[str] | None = None,
    on_progress: OnProgress | None = None,
) -> TableManifest:
    """Make the table that ``spec`` asks for, at ``spec.output``; return its manifest.

    An interrupted run goes on with the shards that have no file yet; where all is there, nothing is
    done. ``ray_address`` joins a cluster; without it Ray is started on this machine if there is
    something to compute, and with ``here`` this process computes. ``job`` marks the progress file
    as a service's job; ``roots`` are the places that the job may name.

    Raises UriNotAllowed, CacheNotFound, CacheIncomplete (also where the cache is committed anew
    meanwhile), CacheCorrupt, CacheBusy (another run writes the output), TableMismatch (the output
    holds something else), StorageError, JobError and what the kind raises. What is written stays,
    and the same call goes on from there.
    """
    spec = absolute(spec)
    if roots is not None:
        check_job(spec, roots)
    progress = ProgressLog(spec.output, job, on_progress)
    compute: Compute = compute_here if here else ComputeOnRay(ray_address)
    with ExitStack() as stack:
        with telling(progress):
            cache, manifest_sha256 = open_cache(spec.cache)
            doing = work(spec, cache)
            doing.roots = roots
            for place in doing.locations() if roots is not None else ():
                check_allowed(place, roots or [])
            plan = _plan(spec, manifest_sha256, doing.inputs())
            check_output(spec, plan)
            doing.check()
            progress.plan(units(cache))
            lease = stack.enter_context(Lease(spec.output, job))
        with telling(progress, lease.confirm):
            target = Target(spec.output, plan.identity, spec.cache, manifest_sha256)
            made = _committed(spec.output, plan)
            if made is None:
                _begin(spec, plan, lease)

                def confirm() -> None:
                    lease.confirm()
                    target.confirm()

                run = Run(cache, target, progress, compute, confirm)
                summary = doing.make(run)
                progress.enter("finalizing")
                progress.step("committing")
                made = _commit(spec, plan, doing, run, summary)
            progress.enter("completed")
    return made


def run_of(work: type[Work[Any]]) -> Callable[[Any, JobOrder], str]:
    """Return what a driver runs for a job of the kind that does this work."""

    def run(spec: CacheJobSpec, order: JobOrder) -> str:
        made = make_table(spec, work, ray_address="auto", job=order.job, roots=order.roots)
        return f"{made.files} files, {made.rows} rows"

    return run


def _plan(spec: CacheJobSpec, manifest_sha256: str, inputs: Any) -> TablePlan:
    return TablePlan(
        spec=spec,
        cache_manifest_sha256=manifest_sha256,
        inputs=dict(inputs),
        identity=spec.identity(manifest_sha256, inputs),
        created_at=time.time(),
    )


def _committed(output: str, plan: TablePlan) -> TableManifest | None:
    """The table that is committed there, where it is this one and all its files are there."""
    found = TableReader.find(output)
    if found is None or found.manifest.identity != plan.identity:
        return None
    try:
        index = found.index
    except CacheCorrupt:
        return None
    root = storage.resolve(output)[1]
    sizes = {storage.path_of(info): info.size for info in list_files(output) if info.is_file}
    whole = all(sizes.get(f"{root}/{file.name}") == file.size for file in index)
    return found.manifest if whole else None


def _begin(spec: CacheJobSpec, plan: TablePlan, lease: Lease) -> None:
    """Begin the table, giving up what is there of another one."""
    output = spec.output
    storage.discard_temporaries(output)
    lease.confirm()
    storage.delete(layout.table_manifest(output))  # before any file changes
    uri = layout.table_plan(output)
    if storage.exists(uri) and TablePlan.read(uri).identity == plan.identity:
        return
    for name in shard_files(output):
        storage.delete(layout.shard_file(output, name))
    storage.write_atomic(uri, plan.to_json())


def _commit(
    spec: CacheJobSpec, plan: TablePlan, work: Work[Any], run: Run, summary: Summary
) -> TableManifest:
    """Write the index, and then the manifest that names it by hash."""
    data = files.encode_index(run.files)
    made = TableManifest(
        spec=spec,
        cache_manifest_sha256=plan.cache_manifest_sha256,
        cache_fingerprint_sha256=run.cache.manifest.fingerprint_sha256,
        inputs=plan.inputs,
        identity=plan.identity,
        columns=list(work.columns()),
        rows=sum(file.rows for file in run.files),
        files=len(run.files),
        index_sha256=hashlib.sha256(data).hexdigest(),
        summary=summary,
        software={name: version(name) for name in _SOFTWARE},
        created_at=time.time(),
    )
    run.confirm()
    storage.write_atomic(layout.index_file(spec.output), data)
    run.confirm()
    storage.write_atomic(layout.table_manifest(spec.output), made.to_json())
    return made
