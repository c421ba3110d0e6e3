"""Training on a cache whose rows nobody has hashed."""

from dataclasses import replace
from pathlib import Path

import pytest
from caches import FINGERPRINT, commit

from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import PairMismatch
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.open import open_pairs

IMPORTED = FINGERPRINT.model_copy(update={"weights_sha256": None, "made_from": "embeddings"})


def unhashed(cache: Path, out: Path, fingerprint: Fingerprint) -> str:
    reader = CacheReader.open(str(cache))
    shards: dict[str, shard_file.ShardRows] = {}
    for name in reader.index:
        rows, _ = shard_file.decode(reader.shard_bytes(name), name)
        nothing: list[bytes | None] = [None] * len(rows.keys)
        shards[name] = replace(rows, image_hash=nothing, caption_hash=nothing)
    return str(commit(out, shards, fingerprint=fingerprint))


def test_rows_without_hashes_are_joined_where_the_cache_says_it_was_imported(
    cache: Path, dataset: Path, tmp_path: Path
) -> None:
    pairs = open_pairs(Data(dataset=str(dataset)), unhashed(cache, tmp_path / "in", IMPORTED))
    joined = next(pairs.read(pairs.shards[0]))
    assert pairs.load(joined).pair.image is not None
    pairs = open_pairs(Data(dataset=str(dataset)), unhashed(cache, tmp_path / "no", FINGERPRINT))
    joined = next(pairs.read(pairs.shards[0]))
    with pytest.raises(PairMismatch, match="the image is not the one that was scored"):
        pairs.load(joined)
