"""A reader of caches by docs/cache-format.md alone: nothing of rhocache is imported.

python golden_reader.py CACHE
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

SIDES = ("image", "text")

Pairs = dict[tuple[str, int], dict[str, Any]]  # by shard and row


def read_cache(cache: Path) -> Pairs:
    """Read every pair, and check every hash on the way."""
    manifest = json.loads((cache / "manifest.json").read_bytes())
    check(manifest["format_version"].split(".")[0] in "01", "a newer format")
    canonical = json.dumps(
        manifest["fingerprint"], sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    check(sha256(canonical.encode()) == manifest["fingerprint_sha256"], "fingerprint")
    index = (cache / "index.parquet").read_bytes()
    check(sha256(index) == manifest["index_sha256"], "index.parquet")
    pairs: Pairs = {}
    for shard in pq.read_table(cache / "index.parquet").to_pylist():
        pairs |= read_shard(cache, shard, manifest["fingerprint_sha256"])
    check(sum(pair["status"] == "ok" for pair in pairs.values()) == manifest["ok"], "ok")
    return pairs


def read_shard(cache: Path, shard: dict[str, Any], fingerprint: str) -> Pairs:
    path = cache / "shards" / f"{shard['name']}.parquet"
    check(sha256(path.read_bytes()) == shard["file_sha256"], path)
    file = pq.ParquetFile(path)
    footer = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    check(footer["rhocache.fingerprint_sha256"] == fingerprint, f"{path}: fingerprint")
    check(footer["rhocache.source_sha256"] == shard["source_sha256"], f"{path}: source")
    rows = file.read().to_pylist()
    check(len(rows) == shard["rows"], f"{path}: rows")
    half = file.schema_arrow.field("image_embeddings").type.value_type == "halffloat"
    shapes = [tuple(map(int, footer[f"rhocache.{side}_shape"].split("x"))) for side in SIDES]
    for row in rows:
        for side, shape in zip(SIDES, shapes, strict=True):
            if row["status"] == "ok":
                numbers = np.array(row[f"{side}_embeddings"], "<f2" if half else "<f4")
                row[f"{side}_embeddings"] = numbers.reshape(shape)
    content = content_sha256(rows, tuple(shapes))
    check(content == shard["content_sha256"] == footer["rhocache.content_sha256"], path)
    return {(shard["name"], row["row"]): row for row in rows}


def content_sha256(rows: list[dict[str, Any]], shapes: tuple) -> str:
    ok = [row for row in rows if row["status"] == "ok"]
    columns = [b"".join(row[name].encode() + b"\0" for row in rows) for name in ("key", "status")]
    columns += [b"".join(row[f"{side}_embeddings"].tobytes() for row in ok) for side in SIDES]
    columns.append(np.array([row["similarity"] for row in ok], "<f4").tobytes())
    columns += [
        b"".join(row[name] or b"-" for row in rows) for name in ("image_hash", "caption_hash")
    ]
    return sha256((repr(shapes) + "".join(map(sha256, columns))).encode())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check(true: bool, what: object) -> None:
    if not true:
        raise SystemExit(f"damaged, or not as the format says: {what}")


if __name__ == "__main__":
    sys.stdout.write(f"{len(read_cache(Path(sys.argv[1])))} pairs, all as recorded\n")
