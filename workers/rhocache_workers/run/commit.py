"""Commits a cache: writes the index and the summary, then the manifest that names them by hash."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import pyarrow as pa

from rhocache_schemas import layout, storage
from rhocache_schemas.cache import index
from rhocache_schemas.cache.documents import Manifest, Origin
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.shard_file import read_columns
from rhocache_schemas.cache.summary import Rounding, Summary, summarise
from rhocache_schemas.errors import CacheError, InvalidDocument, ShardError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.messages import CommittedShard, Description
from rhocache_workers.run.standing import find_readable


def commit(
    spec: ScoreSpec,
    description: Description,
    reference_sha256: str | None,
    committed: Iterable[CommittedShard],
    failures: Mapping[str, ShardError],
    confirm: Callable[[], None],
    origin: Origin | None = None,
) -> None:
    """Write index.parquet, summary.json and manifest.json, unless they say just this already.

    ``confirm`` raises where this run may not write them any more.
    """
    shards = sorted(committed, key=lambda shard: shard.index.name)
    rows = [shard.index for shard in shards]
    parts = {each.index.name: each.summary for each in shards if each.summary is not None}
    data = index.encode(rows, parts)
    uri = layout.manifest_file(spec.output)
    before = find_readable(spec.output)
    index_sha256 = hashlib.sha256(data).hexdigest()
    summary = _known_summary(before, index_sha256)
    if summary is None:
        summary = summarise({row.name: (parts[row.name], row.bytes) for row in rows}, _of(spec))
    summed = summary.to_json()
    failed_by_code = sum((shard.failed_by_code for shard in shards), Counter[str]())
    manifest = Manifest(
        fingerprint=description.fingerprint,
        fingerprint_sha256=description.fingerprint.digest,
        reference=spec.reference,
        reference_sha256=reference_sha256,
        dataset=spec.dataset,
        format=spec.format,
        images=spec.images,
        rows=sum(row.rows for row in rows),
        ok=sum(row.ok for row in rows),
        failed=failed_by_code.total(),
        failed_by_code=dict(sorted(failed_by_code.items())),
        shards=len(rows),
        failed_shards={name: str(error.code) for name, error in sorted(failures.items())},
        dimension=description.dimension,
        logit_scale=description.logit_scale,
        logit_bias=description.logit_bias,
        index_sha256=index_sha256,
        summary_sha256=hashlib.sha256(summed).hexdigest(),
        rounding=Rounding.of(part.rounding for part in parts.values()),
        origin=origin,
        batch_size=description.batch_size,
        software=description.software,
        created_at=time.time(),
    )
    if storage.exists(uri):
        if before is not None and _says(before, manifest):
            return
        confirm()
        # Between the writes a reader finds an incomplete cache, never a manifest that lies.
        storage.delete(uri)
    confirm()
    storage.write_atomic(layout.index_file(spec.output), data)
    confirm()
    storage.write_atomic(layout.summary_file(spec.output), summed)
    confirm()
    storage.write_atomic(uri, manifest.to_json())


def _known_summary(cache: CacheReader | None, index_sha256: str) -> Summary | None:
    """The summary that is committed already of the shards of this index."""
    if cache is None or cache.manifest.index_sha256 != index_sha256:
        return None
    try:
        return cache.summary
    except (CacheError, InvalidDocument):  # missing or damaged
        return None


def _of(spec: ScoreSpec) -> Callable[[str, list[str]], pa.Table]:
    return lambda shard, columns: read_columns(layout.shard_file(spec.output, shard), columns)


def _says(cache: CacheReader, manifest: Manifest) -> bool:
    """Whether that is committed already, but for when and by which software."""
    before = cache.manifest
    same = {"created_at": before.created_at, "software": before.software}
    if manifest.model_copy(update=same) != before:
        return False
    try:
        _ = cache.index, cache.summary
    except CacheError:  # missing or damaged
        return False
    return True
