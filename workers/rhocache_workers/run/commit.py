"""Commits a cache: writes the index, then the manifest that names it by hash."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping

from rhocache_schemas import layout, storage
from rhocache_schemas.cache import index
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import CacheError, ShardError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.messages import CommittedShard, Description
from rhocache_workers.run.standing import find_readable


def commit(
    spec: ScoreSpec,
    description: Description,
    reference_sha256: str | None,
    committed: list[CommittedShard],
    failures: Mapping[str, ShardError],
    confirm: Callable[[], None],
) -> None:
    """Write ``index.parquet`` and ``manifest.json``, unless they say just this already.

    ``confirm`` raises where this run may not write them any more.
    """
    rows = sorted((shard.index for shard in committed), key=lambda row: row.name)
    data = index.encode(rows)
    failed_by_code = sum((shard.failed_by_code for shard in committed), Counter[str]())
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
        index_sha256=hashlib.sha256(data).hexdigest(),
        batch_size=description.batch_size,
        software=description.software,
        created_at=time.time(),
    )
    uri = layout.manifest_file(spec.output)
    if storage.exists(uri):
        before = find_readable(spec.output)
        if before is not None and _says(before, manifest):
            return
        confirm()
        # Between the two writes a reader finds an incomplete cache, never a manifest that lies.
        storage.delete(uri)
    confirm()
    storage.write_atomic(layout.index_file(spec.output), data)
    confirm()
    storage.write_atomic(uri, manifest.to_json())


def _says(cache: CacheReader, manifest: Manifest) -> bool:
    """Whether that is committed already, but for when and by which software."""
    before = cache.manifest
    same = {"created_at": before.created_at, "software": before.software}
    if manifest.model_copy(update=same) != before:
        return False
    try:
        _ = cache.index
    except CacheError:  # missing or damaged
        return False
    return True
