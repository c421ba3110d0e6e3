"""Looking at a job without running it."""

from rhocache_schemas import layout, storage
from rhocache_schemas.api import Validation
from rhocache_schemas.cache.documents import Manifest, Plan, Progress
from rhocache_schemas.cache.index import IndexRow
from rhocache_schemas.cache.listing import shard_files
from rhocache_schemas.dataset.shards import Shard, check_same_dataset
from rhocache_schemas.job.allowed_roots import allowed_shards
from rhocache_schemas.job.spec import JobSpec, JobState
from rhocache_service.caches.shard_status import committed_rows
from rhocache_service.registry.jobs import Registry

_EARLIER = 100  # jobs that are looked at for one to predict by


def validate(spec: JobSpec, roots: list[str], registry: Registry) -> Validation:
    """Raises DatasetError, DatasetMismatch, UriNotAllowed and StorageError."""
    shards = allowed_shards(spec, roots)
    there = shard_files(spec.output)
    rows = committed_rows(spec.output)
    check_dataset(spec, shards, rows)
    todo = [shard for shard in shards if shard.name not in there]
    known = all(shard.name in rows for shard in shards)
    seconds, size = _predict(spec, shards, todo, registry)
    plan = layout.plan_file(spec.output)
    return Validation(
        shards=len(shards),
        shards_done=len(shards) - len(todo),
        source_bytes=sum(shard.size for shard in shards),
        pairs=sum(rows[shard.name].rows for shard in shards) if known else None,
        fingerprint=Plan.read(plan).fingerprint.digest if storage.exists(plan) else None,
        predicted_seconds=seconds,
        predicted_bytes=size,
    )


def check_dataset(spec: JobSpec, shards: list[Shard], rows: dict[str, IndexRow]) -> None:
    """Refuse at once what the driver would refuse after hashing, as far as sizes tell.

    ``rows`` are those of the output's index. Raises DatasetMismatch.
    """
    uri = layout.manifest_file(spec.output)
    if spec.replace or not storage.exists(uri):
        return
    alike = [rows[shard.name].source_size == shard.size for shard in shards if shard.name in rows]
    check_same_dataset(
        spec.output,
        Manifest.read(uri).dataset,
        spec.dataset,
        same=alike.count(True),
        changed=alike.count(False),
        unknown=len(rows) - len(alike),
    )


def _predict(
    spec: JobSpec, shards: list[Shard], todo: list[Shard], registry: Registry
) -> tuple[float | None, int | None]:
    """Seconds and bytes, by what the last job with this reference and dtype took for a byte."""
    for job in registry.newest(_EARLIER, status=JobState.COMPLETED):
        done = job.job_spec()
        if (done.reference, done.dtype) != (spec.reference, spec.dtype) or job.progress is None:
            continue
        rate = Progress.model_validate(job.progress).pairs_per_second
        rows = list(committed_rows(done.output).values())
        pairs, source = sum(row.rows for row in rows), sum(row.source_size for row in rows)
        if not (rate and pairs and source):
            continue
        left, whole = sum(s.size for s in todo), sum(s.size for s in shards)
        size = sum(row.bytes for row in rows) * whole // source
        return left * pairs / source / rate, size
    return None, None
