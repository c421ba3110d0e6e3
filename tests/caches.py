"""A committed cache made without workers: by the schemas' own writers, of rows that one gives."""

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rhocache_schemas import layout, storage
from rhocache_schemas.cache import index, shard_file
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.cache.shard_file import OK, ShardRows
from rhocache_schemas.cache.summary import ShardSummary, summarise
from rhocache_schemas.reference import ReferenceSpec

FINGERPRINT = Fingerprint(
    weights_sha256="0" * 64,
    architecture={},
    preprocessing={},
    tokenizer={},
    precision="fp32",
    dtype="float16",
)


def commit(folder: str | Path, shards: Mapping[str, ShardRows], **manifest: Any) -> Path:
    """Write a cache of these rows, by shard name; ``manifest`` changes fields of it."""
    fingerprint: Fingerprint = manifest.get("fingerprint", FINGERPRINT)
    entries: list[index.IndexRow] = []
    summaries: dict[str, ShardSummary] = {}
    for name, rows in shards.items():
        data = shard_file.encode(rows, fingerprint.digest, "1" * 64)
        storage.write_atomic(layout.shard_file(str(folder), name), data)
        summaries[name] = shard_file.sum_up(data, name)[0].summary
        failed = sum(code != OK for code in rows.status)
        entries.append(
            index.IndexRow(
                name=name,
                rows=len(rows.keys),
                ok=len(rows.keys) - failed,
                failed=failed,
                bytes=len(data),
                source_size=0,
                source_mtime_ns=0,
                source_sha256="1" * 64,
                content_sha256=rows.content_sha256(),
                file_sha256=hashlib.sha256(data).hexdigest(),
            )
        )
    listed = index.encode(entries, summaries)
    storage.write_atomic(layout.index_file(str(folder)), listed)
    summary = summarise(
        {entry.name: (summaries[entry.name], entry.bytes) for entry in entries},
        lambda shard, columns: shard_file.read_columns(
            layout.shard_file(str(folder), shard), columns
        ),
    ).to_json()
    storage.write_atomic(layout.summary_file(str(folder)), summary)
    fields: dict[str, Any] = {
        "fingerprint": fingerprint,
        "fingerprint_sha256": fingerprint.digest,
        "reference": ReferenceSpec(model="local-dir:/gone"),
        "dataset": "the dataset",
        "rows": sum(entry.rows for entry in entries),
        "ok": sum(entry.ok for entry in entries),
        "failed": sum(entry.failed for entry in entries),
        "failed_by_code": {},
        "shards": len(entries),
        "failed_shards": {},
        "dimension": next(iter(shards.values())).image.shape[-1],
        "logit_scale": 10.0,
        "index_sha256": hashlib.sha256(listed).hexdigest(),
        "summary_sha256": hashlib.sha256(summary).hexdigest(),
        "batch_size": 8,
        "software": {},
        "created_at": 0.0,
    }
    written = Manifest(**fields | manifest).to_json()
    storage.write_atomic(layout.manifest_file(str(folder)), written)
    return Path(folder)


def flip_index(folder: str | Path, name: str = layout.INDEX) -> str:
    """Flip a bit of the index; the pattern of an error that names it and both its hashes."""
    path = Path(folder, name)
    data = bytearray(path.read_bytes())
    before = hashlib.sha256(data).hexdigest()
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    after = hashlib.sha256(data).hexdigest()
    return rf"{re.escape(name)} has SHA-256 {after}, but manifest\.json names {before}"


def in_shards(
    image: np.ndarray, text: np.ndarray, sizes: Mapping[str, int], bad: Collection[int]
) -> dict[str, ShardRows]:
    """Cut embeddings [n, d] into shards of these sizes; the ``bad`` of the n rows have none."""
    shards: dict[str, ShardRows] = {}
    first = 0
    for shard, rows in sizes.items():
        part = slice(first, first + rows)
        failed = [number in bad for number in range(first, first + rows)]
        images, texts = (each[part, None].copy() for each in (image, text))
        images[failed] = texts[failed] = np.nan
        shards[shard] = ShardRows(
            keys=[f"{row:03}" for row in range(rows)],
            status=["image_missing" if each else OK for each in failed],
            image=images,
            text=texts,
            similarity=(images[:, 0].astype(np.float32) * texts[:, 0]).sum(1),
            image_hash=[b"12345678"] * rows,
            caption_hash=[b"12345678"] * rows,
        )
        first += rows
    return shards
