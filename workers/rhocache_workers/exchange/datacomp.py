"""DataComp's metadata: NAME.parquet beside NAME.npz, and lists of uids."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rhocache_schemas.cache.reader import CacheReader
from rhocache_workers.exchange.usable import UsableRows

UID = re.compile(r"[0-9a-f]{32}")
UIDS = "uids.npy"  # sorted pairs of unsigned 64-bit numbers, as its subset files are


def short_name(model: str) -> str:
    """What DataComp calls a model's columns: b32 for ViT-B-32, l14 for ViT-L-14."""
    match = re.search(r"ViT-?([A-Za-z])-?(\d+)", model)
    return f"{match[1].lower()}{match[2]}" if match else "reference"


def write_datacomp(reader: CacheReader, parts: Iterator[UsableRows], place: Path) -> None:
    """Write a parquet and an npz a shard; and, where keys are uids, one file that lists them."""
    name = short_name(reader.manifest.reference.model)
    digits = len(str(reader.manifest.shards - 1))
    uids: list[np.ndarray] | None = []
    for number, part in enumerate(parts):
        stem = str(number).zfill(max(digits, 8))
        columns = part.places
        score = columns.pop("similarity")
        told = {"uid": columns.pop("key"), f"clip_{name}_similarity_score": score} | columns
        pq.write_table(pa.table(told), place / f"{stem}.parquet")
        arrays: dict[str, Any] = {f"{name}_img": part.image, f"{name}_txt": part.text}
        np.savez(place / f"{stem}.npz", **arrays)
        if uids is not None:
            listed = _uids(part.keys)
            uids = None if listed is None else [*uids, listed]
    if uids:
        np.save(place / UIDS, np.sort(np.concatenate(uids)))


def _uids(keys: list[str]) -> np.ndarray | None:
    """Keys as pairs of numbers; None where one is no uid."""
    if not all(UID.fullmatch(key) for key in keys):
        return None
    return np.array([(int(key[:16], 16), int(key[16:], 16)) for key in keys], "u8,u8")
