"""What is in a cache, complete or not. Needs neither torch nor Ray."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from rhocache_schemas import layout, storage
from rhocache_schemas.cache import index
from rhocache_schemas.cache.documents import Manifest, Plan, Progress
from rhocache_schemas.cache.listing import read_failures, shard_files
from rhocache_schemas.cache.shard_file import OK
from rhocache_schemas.errors import CacheNotFound
from rhocache_workers.run.committed import read_columns

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_READERS = 16  # threads; an object store answers each of them only after a while


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
    shards: int  # of the manifest; before there is one, the files that are there
    failed_shards: dict[str, str]  # name -> code
    rows: int
    ok: int
    failed_by_code: dict[str, int]
    bytes: int  # of the shard files
    dimension: int | None  # None while there is no manifest
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
    if committed is not None:
        entries = index.decode(
            storage.read_bytes(layout.index_file(cache)), layout.index_file(cache)
        )
        sizes = {entry.name: entry.bytes for entry in entries}
        failures = committed.failed_shards
    else:
        sizes = {name: info.size for name, info in shard_files(cache).items()}
        failures = {name: failure.code for name, failure in read_failures(cache).items()}
    codes, similarities = _rows(cache, list(sizes))
    begun = committed or plan.spec
    return Inspection(
        cache=cache,
        complete=committed is not None,
        dataset=begun.dataset,
        model=begun.reference.model,
        pretrained=begun.reference.pretrained,
        precision=plan.fingerprint.precision,
        dtype=plan.fingerprint.dtype,
        fingerprint=plan.fingerprint.digest,
        shards=len(sizes),
        failed_shards=failures,
        rows=codes.total(),
        ok=codes.pop(OK, 0),
        failed_by_code=dict(sorted(codes.items())),
        bytes=sum(sizes.values()),
        dimension=committed.dimension if committed else None,
        similarity_quantiles=_quantiles(similarities),
        phase=Progress.read(progress).phase if storage.exists(progress) else None,
    )


def _rows(cache: str, shards: list[str]) -> tuple[Counter[str], np.ndarray]:
    """How often each status occurs, and the similarities of the usable rows, float32."""
    codes: Counter[str] = Counter()
    similarities = [np.empty(0, np.float32)]
    with ThreadPoolExecutor(_READERS) as pool:
        files = [layout.shard_file(cache, name) for name in shards]
        for table in pool.map(partial(read_columns, columns=["status", "similarity"]), files):
            codes.update(map(str, table["status"].to_pylist()))
            similarities.append(table["similarity"].drop_null().to_numpy())
    return codes, np.concatenate(similarities)


def _quantiles(similarities: np.ndarray) -> dict[str, float]:
    if not len(similarities):
        return {}
    values = np.quantile(similarities, QUANTILES)
    return {f"{q:g}": float(v) for q, v in zip(QUANTILES, values, strict=True)}
