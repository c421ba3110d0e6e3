"""Writes a cache anew with embeddings in another dtype, or in the newest format."""

from dataclasses import replace

import numpy as np

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Origin
from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.documents import CACHE_FORMAT
from rhocache_schemas.errors import CacheCorrupt
from rhocache_schemas.reference import Dtype
from rhocache_workers.maintain.derive import Made, Outline, deriving


def convert(cache: str, dtype: Dtype, out: str) -> Made:
    """Write the rows of ``cache`` to a new cache ``out`` with embeddings in ``dtype``.

    Its manifest states what that changed, and what it was made from. Each shard is read, checked
    and written in turn. No job scores into it: its embeddings were rounded twice.

    Raises what opening and reading a cache raises, and InvalidInput where ``out`` is there.
    """
    reader = CacheReader.open(cache)
    manifest = reader.manifest
    fingerprint = _fingerprint(manifest.fingerprint, dtype)
    origin = Origin(
        how="converted",
        sources=[cache],
        sources_sha256=[storage.sha256(layout.manifest_file(cache))],
        format=f"cache {manifest.format_version}",
        dtype=manifest.fingerprint.dtype,
        rounding=manifest.total_rounding,
        weights_verified=not manifest.fingerprint.imported,
    )
    made = Made(out)
    if manifest.fingerprint.is_format_1:
        made.notes.append(
            "hashes stay 64 bits wide, as in the cache of format 1: the images and captions, of "
            "which wider ones would be taken, are not at hand"
        )
    outline = Outline.of(manifest, fingerprint, origin)
    with deriving(out, outline, made, reader.index) as writer:
        for name, row in reader.index.items():
            rows, footer = reader.rows(name)
            if footer.fingerprint_sha256 != manifest.fingerprint_sha256:
                uri = layout.shard_file(cache, name)
                raise CacheCorrupt(f"{uri} was made by another reference than {cache}")
            exact = replace(
                rows,
                image=rows.image.astype(np.float32),
                text=rows.text.astype(np.float32),
                codes=None,
            )
            shard = Shard(name, "", row.source_size, row.source_mtime_ns)
            writer.add_rows(shard, exact, row.source_sha256)
    return made


def _fingerprint(before: Fingerprint, dtype: Dtype) -> Fingerprint:
    made_from = "embeddings" if before.imported else "cache"
    changed = {"format_version": CACHE_FORMAT, "dtype": dtype, "made_from": made_from}
    return before.model_copy(update=changed)
