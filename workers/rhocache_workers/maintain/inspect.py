"""Summarises a cache, complete or not. Needs neither torch nor Ray."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Plan, Progress
from rhocache_schemas.cache.listing import read_failures, shard_files
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.shard_file import OK, read_columns
from rhocache_schemas.cache.summary import Summary
from rhocache_schemas.errors import CacheNotFound

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_READERS = 16  # threads; an object store answers each of them only after a while


@dataclass(frozen=True, slots=True)
class Inspection:
    """``dataclasses.asdict`` is what ``rhocache inspect --json`` prints."""

    cache: str
    complete: bool
    format_version: str
    dataset: str
    model: str
    pretrained: str | None
    precision: str
    dtype: str
    views: int  # of each image
    captions: int  # of each pair at most
    fingerprint: str
    shards: int  # of the manifest; before there is one, the files that are there
    failed_shards: dict[str, str]  # name -> code
    rows: int
    ok: int
    failed_by_code: dict[str, int]
    bytes: int  # of the shard files
    dimension: int | None  # None while there is no manifest
    similarity_quantiles: dict[str, float]  # share of the pairs -> similarity
    rounding: dict[str, Any] | None  # Rounding's fields; None where it was not measured
    origin: dict[str, Any] | None  # Origin's fields
    phase: str | None  # of the newest run


@dataclass(frozen=True, slots=True)
class _Rows:
    failed_shards: dict[str, str]
    shards: int
    ok: int
    failed_by_code: dict[str, int]
    bytes: int
    quantiles: dict[str, float]


def inspect(cache: str) -> Inspection:
    """Look at a cache.

    Raises CacheNotFound, CacheCorrupt and what reading a damaged document raises.
    """
    if not storage.exists(layout.plan_file(cache)):
        raise CacheNotFound(f"there is no cache at {cache}: it has no {layout.PLAN}")
    plan = Plan.read(layout.plan_file(cache))
    progress = layout.progress_file(cache)
    reader = CacheReader.find(cache)
    manifest = reader.manifest if reader else None
    rows = _summed(reader, reader.summary) if reader and reader.summary else _read(cache, reader)
    begun = manifest or plan.spec
    told = manifest or plan
    return Inspection(
        cache=cache,
        complete=manifest is not None,
        format_version=told.format_version,
        dataset=begun.dataset,
        model=begun.reference.model,
        pretrained=begun.reference.pretrained,
        precision=told.fingerprint.precision,
        dtype=told.fingerprint.dtype,
        views=told.fingerprint.view_count,
        captions=told.fingerprint.captions or 1,
        fingerprint=told.fingerprint.digest,
        shards=rows.shards,
        failed_shards=rows.failed_shards,
        rows=rows.ok + sum(rows.failed_by_code.values()),
        ok=rows.ok,
        failed_by_code=rows.failed_by_code,
        bytes=rows.bytes,
        dimension=manifest.dimension if manifest else None,
        similarity_quantiles=rows.quantiles,
        rounding=manifest.rounding.model_dump() if manifest and manifest.rounding else None,
        origin=manifest.origin.model_dump() if manifest and manifest.origin else None,
        phase=Progress.read(progress).phase if storage.exists(progress) else None,
    )


def _summed(reader: CacheReader, summary: Summary) -> _Rows:
    """From the documents alone; quantiles but the first and last to 0.0005."""
    reader.check_index()
    values = {f"{share:g}": summary.quantile(share) for share in QUANTILES}
    return _Rows(
        failed_shards=reader.manifest.failed_shards,
        shards=reader.manifest.shards,
        ok=reader.manifest.ok,
        failed_by_code=reader.manifest.failed_by_code,
        bytes=summary.bytes,
        quantiles={share: value for share, value in values.items() if value is not None},
    )


def _read(cache: str, reader: CacheReader | None) -> _Rows:
    """From every shard: of a cache of format 1, or one that is not complete."""
    if reader is not None:
        sizes = {name: row.bytes for name, row in reader.index.items()}
        failures = reader.manifest.failed_shards
        read = reader.columns
    else:
        sizes = {name: info.size for name, info in shard_files(cache).items()}
        failures = {name: failure.code for name, failure in read_failures(cache).items()}

        def read(shard: str, columns: list[str]) -> pa.Table:
            return read_columns(layout.shard_file(cache, shard), columns)

    codes, similarities = _rows(list(sizes), read)
    return _Rows(
        failed_shards=failures,
        shards=len(sizes),
        ok=codes.pop(OK, 0),
        failed_by_code=dict(sorted(codes.items())),
        bytes=sum(sizes.values()),
        quantiles=_quantiles(similarities),
    )


def _rows(
    shards: list[str], read: Callable[[str, list[str]], pa.Table]
) -> tuple[Counter[str], np.ndarray]:
    """How often each status occurs, and the similarities of the usable rows, float32."""
    codes: Counter[str] = Counter()
    similarities = [np.empty(0, np.float32)]
    with ThreadPoolExecutor(_READERS) as pool:
        columns = repeat(["status", "similarity"])
        for table in pool.map(read, shards, columns):
            codes.update(map(str, table["status"].to_pylist()))
            similarities.append(table["similarity"].drop_null().to_numpy())
    return codes, np.concatenate(similarities)


def _quantiles(similarities: np.ndarray) -> dict[str, float]:
    if not len(similarities):
        return {}
    values = np.quantile(similarities, QUANTILES)
    return {f"{q:g}": float(v) for q, v in zip(QUANTILES, values, strict=True)}
