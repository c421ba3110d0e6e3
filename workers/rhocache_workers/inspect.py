"""What is in a cache, complete or not. Needs neither torch nor Ray."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from rhocache_schemas import index, layout, storage
from rhocache_schemas.errors import CacheCorrupt, CacheNotFound
from rhocache_schemas.records import Manifest, Plan, Progress

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, slots=True)
class Inspection:
    """``dataclasses.asdict`` is what ``rhocache inspect --json`` prints."""

    cache: str
    complete: bool
    dataset: str
    model: str
    pretrained: str | None
    precision: str
    dtype: str
    fingerprint: str
    shards: int  # files that are there
    failed_shards: dict[str, str]  # name -> code
    rows: int | None  # these are known of a complete cache only
    ok: int | None
    failed_by_code: dict[str, int]
    bytes: int | None  # of the shard files
    dimension: int | None
    similarity_quantiles: dict[str, float]  # share of the pairs -> similarity
    phase: str | None  # of the newest run


def inspect(cache: str) -> Inspection:
    """Look at a cache.

    Raises CacheNotFound, CacheCorrupt and what reading a damaged document raises.
    """
    if not storage.exists(layout.plan_file(cache)):
        raise CacheNotFound(f"there is no cache at {cache}: it has no {layout.PLAN}")
    plan = Plan.read(layout.plan_file(cache))
    progress = layout.progress_file(cache)
    manifest = layout.manifest_file(cache)
    committed = Manifest.read(manifest) if storage.exists(manifest) else None
    rows = []
    if committed is not None:
        rows = index.decode(storage.read_bytes(layout.index_file(cache)), layout.index_file(cache))
    return Inspection(
        cache=cache,
        complete=committed is not None,
        dataset=(committed or plan.spec).dataset,
        model=(committed or plan.spec).reference.model,
        pretrained=(committed or plan.spec).reference.pretrained,
        precision=plan.fingerprint.precision,
        dtype=plan.fingerprint.dtype,
        fingerprint=plan.fingerprint.digest,
        shards=len(rows) if committed else _count_files(cache),
        failed_shards=committed.failed_shards if committed else {},
        rows=committed.rows if committed else None,
        ok=committed.ok if committed else None,
        failed_by_code=committed.failed_by_code if committed else {},
        bytes=sum(row.bytes for row in rows) if committed else None,
        dimension=committed.dimension if committed else None,
        similarity_quantiles=_quantiles(cache, [row.name for row in rows]),
        phase=Progress.read(progress).phase if storage.exists(progress) else None,
    )


def _count_files(cache: str) -> int:
    filesystem, path = storage.resolve(storage.join(cache, "shards"))
    selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
    return sum(info.path.endswith(".parquet") for info in filesystem.get_file_info(selector))


def _quantiles(cache: str, shards: list[str]) -> dict[str, float]:
    columns = [_similarities(layout.shard_file(cache, name)) for name in shards]
    known = np.concatenate(columns) if columns else np.empty(0)
    known = known[np.isfinite(known)]
    if not len(known):
        return {}
    values = np.quantile(known, QUANTILES)
    return {f"{q:g}": float(v) for q, v in zip(QUANTILES, values, strict=True)}


def _similarities(uri: str) -> np.ndarray:
    filesystem, path = storage.resolve(uri)
    try:
        table = pq.read_table(path, filesystem=filesystem, columns=["similarity"])
    except (pa.ArrowException, OSError) as error:
        raise CacheCorrupt(f"{uri} is not a readable shard file: {error}") from error
    return table["similarity"].to_numpy()
