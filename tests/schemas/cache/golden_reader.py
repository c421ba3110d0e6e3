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
    check(manifest["format_version"].split(".")[0] in "012", "a newer format")
    canonical = json.dumps(
        manifest["fingerprint"], sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    check(sha256(canonical.encode()) == manifest["fingerprint_sha256"], "fingerprint")
    index = (cache / "index.parquet").read_bytes()
    check(sha256(index) == manifest["index_sha256"], "index.parquet")
    if manifest.get("summary_sha256"):
        summary = (cache / "summary.json").read_bytes()
        check(sha256(summary) == manifest["summary_sha256"], "summary.json")
        check(sum(json.loads(summary)["counts"]) == manifest["ok"], "summary.json")
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
    kind = file.schema_arrow.field("image_embeddings").type
    shapes = [tuple(map(int, footer[f"rhocache.{side}_shape"].split("x"))) for side in SIDES]
    for row in (row for row in rows if row["status"] == "ok"):
        for side, (_, dimension) in zip(SIDES, shapes, strict=True):
            numbers = row[f"{side}_embeddings"]
            if kind == "binary":
                numbers = np.frombuffer(numbers, "i1")
                row[f"{side}_scales"] = np.array(row[f"{side}_scales"], "<f4")
            else:
                numbers = np.array(numbers, "<f2" if kind.value_type == "halffloat" else "<f4")
            row[f"{side}_embeddings"] = numbers.reshape(-1, dimension)
    content = content_sha256(rows, tuple(shapes))
    check(content == shard["content_sha256"] == footer["rhocache.content_sha256"], path)
    return {(shard["name"], row["row"]): row for row in rows}


def vectors(pair: dict[str, Any], side: str, most: int) -> np.ndarray:
    """The embeddings [most, d] of a pair that is ok: of fewer the k-th is number k mod c."""
    own = pair[f"{side}_embeddings"]
    if f"{side}_scales" in pair:
        own = own * pair[f"{side}_scales"][:, None]
    return own[np.arange(most) % len(own)]


def content_sha256(rows: list[dict[str, Any]], shapes: tuple) -> str:
    ok = [row for row in rows if row["status"] == "ok"]
    columns = [b"".join(row[name].encode() + b"\0" for row in rows) for name in ("key", "status")]
    columns += [joined(ok, f"{side}_embeddings") for side in SIDES]
    columns.append(np.array([row["similarity"] for row in ok], "<f4").tobytes())
    columns += [
        b"".join(row[name] or b"-" for row in rows) for name in ("image_hash", "caption_hash")
    ]
    if shapes[1][0] > 1:
        columns.append(np.array([len(row["text_embeddings"]) for row in ok], "<i4").tobytes())
    if rows and "image_scales" in rows[0]:
        columns += [joined(ok, f"{side}_scales") for side in SIDES]
    return sha256((repr(shapes) + "".join(map(sha256, columns))).encode())


def joined(rows: list[dict[str, Any]], column: str) -> bytes:
    return b"".join(row[column].tobytes() for row in rows)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check(true: bool, what: object) -> None:
    if not true:
        raise SystemExit(f"damaged, or not as the format says: {what}")


if __name__ == "__main__":
    sys.stdout.write(f"{len(read_cache(Path(sys.argv[1])))} pairs, all as recorded\n")
