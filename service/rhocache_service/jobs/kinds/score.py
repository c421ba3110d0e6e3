"""How the service treats scoring jobs."""

from rhocache_schemas import layout, storage
from rhocache_schemas.api import Range, ShardList, Validation
from rhocache_schemas.cache.documents import Plan
from rhocache_schemas.cache.listing import shard_files
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.reusable import open_reusable
from rhocache_schemas.dataset.shards import Shard, check_same_dataset, check_size
from rhocache_schemas.errors import CacheError, CacheIncomplete, InvalidDocument
from rhocache_schemas.job.allowed_roots import open_allowed
from rhocache_schemas.job.apart import check_apart
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.models import check_name
from rhocache_service.caches.shard_status import shard_list
from rhocache_service.jobs.kinds import JobKind
from rhocache_service.jobs.prediction import (
    bytes_per_pair,
    jobs_alike,
    predict_bytes,
    predict_pairs,
    predict_seconds,
    sample_density,
)
from rhocache_service.jobs.references import dimension_of
from rhocache_service.registry.jobs import Registry


class _Score(JobKind[ScoreSpec]):
    how = frozenset({"batch_size", "workers", "remote_decoders", "error_budget", "reuse"})

    def check(self, spec: ScoreSpec) -> None:
        """Refuse a model that there is not, a pattern of too many names, a path that no disk could
        have, options that an output's cache was not begun with, references or outputs that are not
        apart, and caches to reuse that are not there, or by another reference."""
        check_apart(spec)
        for each in spec.each:
            check_name(each.reference)
        if "{" in spec.dataset:
            check_size(spec.dataset)
        elif storage.scheme(spec.dataset) == "file":
            storage.exists(spec.dataset)
        for each in spec.each:
            uri = layout.plan_file(each.output)
            if not spec.replace and storage.exists(uri):
                Plan.read(uri).fingerprint.check_options(each)
        open_reusable(spec)

    def preview(self, spec: ScoreSpec, roots: list[str], registry: Registry) -> Validation:
        """Raises DatasetError, DatasetMismatch, UriNotAllowed, and what _open_output does."""
        shards = open_allowed(spec.source, spec.format, roots).dated()
        there = set(shard_files(spec.output))
        for other in spec.outputs[1:]:
            there &= shard_files(other).keys()
        cache = _open_output(spec)
        rows = {} if cache is None else cache.index
        _check_dataset(spec, shards, cache)
        for other in spec.each[1:]:
            _check_dataset(other, shards, _open_output(other))
        todo = [shard for shard in shards if shard.name not in there]
        unread = [shard for shard in shards if shard.name not in rows]
        alike = jobs_alike(spec, registry)
        density = sample_density(unread, spec.source)
        pairs, left = (
            _within(predict_pairs(part, rows, density), spec.limit) for part in (shards, todo)
        )
        dimension = dimension_of(spec.reference)
        per_pair = dimension and bytes_per_pair(dimension, spec.dtype, spec.views.count)
        plan = layout.plan_file(spec.output)
        return Validation(
            shards=len(shards),
            shards_committed=len(shards) - len(todo),
            source_bytes=sum(shard.size for shard in shards),
            pairs=sum(rows[shard.name].rows for shard in shards) if not unread else None,
            fingerprint=Plan.read(plan).fingerprint.digest if storage.exists(plan) else None,
            dimension=dimension,
            dtype=spec.dtype,
            bytes_per_pair=per_pair,
            predicted_pairs=pairs,
            predicted_seconds=left and predict_seconds(left, alike),
            predicted_bytes=_predict_bytes(spec, pairs, len(shards)),
        )

    def validate(self, spec: ScoreSpec, roots: list[str]) -> int:
        """Raises DatasetError, DatasetMismatch, UriNotAllowed, and what _open_output does."""
        shards = open_allowed(spec.source, spec.format, roots).dated()
        for each in spec.each:
            _check_dataset(each, shards, _open_output(each))
        return len(shards)

    def outcome(self, spec: ScoreSpec) -> str:
        """Raises CacheIncomplete where there is no manifest."""
        return _committed(spec.output)

    def beside(self, spec: ScoreSpec) -> dict[str, str]:
        """Raises as outcome does."""
        return {output: _committed(output) for output in spec.outputs[1:]}

    def retry(self, spec: ScoreSpec) -> ScoreSpec:
        """What is missing and what failed, and rows that may be mended."""
        return spec.model_copy(update={"retry_failed": True})

    def shards(self, spec: ScoreSpec, limit: int, after: str | None) -> ShardList:
        return shard_list(spec, limit, after)


KIND = _Score()


def _committed(output: str) -> str:
    cache = CacheReader.find(output)
    if cache is None:
        raise CacheIncomplete(f"its driver ended well, but {output} has no {layout.MANIFEST}")
    return cache.manifest.fingerprint_sha256


def _predict_bytes(spec: ScoreSpec, pairs: Range | None, shards: int) -> Range | None:
    """Of all caches together, where the dimension of each reference is known."""
    found: list[Range] = []
    for each in spec.each:
        dimension = dimension_of(each.reference)
        if not (pairs and dimension):
            return None
        least, most = (
            bytes_per_pair(dimension, spec.dtype, spec.views.count, captions)
            for captions in (1, spec.source.most_captions)  # a pair may have fewer than are asked
        )
        found.append(predict_bytes(pairs, shards, least, most))
    return Range(low=sum(each.low for each in found), high=sum(each.high for each in found))


def _within(pairs: Range | None, limit: int | None) -> Range | None:
    if pairs is None or limit is None:
        return pairs
    return Range(low=min(pairs.low, limit), high=min(pairs.high, limit))


def _open_output(spec: ScoreSpec) -> CacheReader | None:
    """Open the cache that a job adds to and check its index, as the driver does.

    None where nothing is committed, or is damaged and given up. Raises CacheCorrupt,
    CacheIncomplete for a missing index, InvalidDocument, UnsupportedVersion and StorageError.
    """
    try:
        cache = CacheReader.find(spec.output)
        _ = cache and cache.index
    except (CacheError, InvalidDocument):
        if spec.replace:
            return None
        raise
    return cache


def _check_dataset(spec: ScoreSpec, shards: list[Shard], cache: CacheReader | None) -> None:
    """Refuse at once what the driver would refuse after hashing, as far as sizes tell.

    ``cache`` is the output's, if there is one. Raises DatasetMismatch.
    """
    if spec.replace or cache is None:
        return
    rows = cache.index
    known = ((shard, rows[shard.name]) for shard in shards if shard.name in rows)
    alike = [not shard.differs(row.source_size, row.rows) for shard, row in known]
    check_same_dataset(
        spec.output,
        cache.manifest.dataset,
        spec.dataset,
        same=alike.count(True),
        changed=alike.count(False),
        unknown=len(rows) - len(alike),
    )
