"""A small dataset and a cache for it, made with tarfile, PIL and the schemas' writers alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from caches import commit
from made_pairs import COLOURS, PAIRS, SHARDS, MadePair, make_pairs, write_tar  # noqa: F401

from rhocache_schemas.cache import shard_file

DIMENSION = 6


def unit_rows(shard: int, which: str, dimension: int = DIMENSION) -> np.ndarray:
    """The embeddings that the cache holds for a shard: [PAIRS, dimension] halves."""
    random = np.random.default_rng([shard, which == "text"])
    vectors = random.normal(size=(PAIRS, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def write_cache(
    folder: Path,
    failed: dict[tuple[int, int], str] | None = None,
    dimension: int = DIMENSION,
    pairs_of: Callable[[int], list[MadePair]] = make_pairs,
    **manifest: Any,
) -> Path:
    """A committed cache of the dataset; ``failed`` gives (shard, row) -> row error code.

    A row with ``duplicate_key`` has the key of its shard's first row.
    """
    shards: dict[str, shard_file.ShardRows] = {}
    for shard in range(SHARDS):
        pairs = pairs_of(shard)
        if not pairs:
            continue
        status = [(failed or {}).get((shard, row), "ok") for row in range(len(pairs))]
        bad = np.array([code != "ok" for code in status])
        image, text = (
            unit_rows(shard, which, dimension)[: len(pairs)] for which in ("image", "text")
        )
        image[bad] = text[bad] = np.nan
        shards[f"{shard:05}.tar"] = shard_file.ShardRows(
            keys=[
                pairs[0].key if code == "duplicate_key" else pair.key
                for pair, code in zip(pairs, status, strict=True)
            ],
            status=status,
            image=image[:, None],
            text=text[:, None],
            similarity=(image.astype(np.float32) * text.astype(np.float32)).sum(1),
            image_hash=[_xxh3(pair.image) for pair in pairs],
            caption_hash=[_xxh3(pair.caption.encode()) for pair in pairs],
        )
    return commit(folder, shards, failed_shards={"00009.tar": "tar_truncated"}, **manifest)


def _xxh3(data: bytes) -> bytes:
    return xxhash.xxh3_128(data).digest()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for shard in range(SHARDS):
        write_tar(tmp_path / "dataset" / f"{shard:05}.tar", make_pairs(shard))
    return tmp_path / "dataset"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_cache(tmp_path / "cache")


@pytest.fixture
def caches(tmp_path: Path, cache: Path) -> list[str]:
    """That cache, and one of another reference, whose embeddings have other dimensions."""
    return [str(cache), str(write_cache(tmp_path / "other", dimension=4, logit_scale=30.0))]


@pytest.fixture
def model_cfg() -> dict:
    """An open_clip model config that trains in milliseconds."""
    return {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 12,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }


@pytest.fixture
def config(tmp_path: Path, dataset: Path, model_cfg: dict) -> dict:
    """Settings of a run over the small dataset, as a YAML file would give them."""
    return {
        "output": str(tmp_path / "run"),
        "data": {"dataset": str(dataset), "shuffle_buffer": 10},
        "model": model_cfg,
        "augmentation": {"scale": [0.5, 1.0], "flip": 0.5},
        "objective": "clip",
        "batch_size": 4,
        "epochs": 2,
        "log_every": 1,
        "device": "cpu",
    }
