"""A small dataset and a cache for it, made with tarfile, PIL and the schemas' writers alone."""

from pathlib import Path

import numpy as np
import pytest
import xxhash
from caches import commit
from made_pairs import COLOURS, PAIRS, SHARDS, MadePair, make_pairs, write_tar  # noqa: F401

from rhocache_schemas.cache import shard_file

DIMENSION = 6


def unit_rows(shard: int, which: str) -> np.ndarray:
    """The embeddings that the cache holds for a shard: [PAIRS, DIMENSION] halves."""
    random = np.random.default_rng([shard, which == "text"])
    vectors = random.normal(size=(PAIRS, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def write_cache(folder: Path, failed: dict[tuple[int, int], str] | None = None) -> Path:
    """A committed cache of the dataset; ``failed`` gives (shard, row) -> row error code.

    A row with ``duplicate_key`` has the key of its shard's first row.
    """
    shards: dict[str, shard_file.ShardRows] = {}
    for shard in range(SHARDS):
        pairs = make_pairs(shard)
        status = [(failed or {}).get((shard, row), "ok") for row in range(PAIRS)]
        bad = np.array([code != "ok" for code in status])
        image, text = unit_rows(shard, "image"), unit_rows(shard, "text")
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
    return commit(folder, shards, failed_shards={"00009.tar": "tar_truncated"})


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
