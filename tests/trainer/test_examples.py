"""Every example configuration trains, on the repository's own pairs."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from rhocache_schemas import index, layout, shard_file, storage
from rhocache_schemas.dataset import list_shards
from rhocache_schemas.fingerprint import Fingerprint
from rhocache_schemas.pairs import hash_caption, hash_image
from rhocache_schemas.records import Manifest
from rhocache_schemas.reference import ReferenceSpec
from rhocache_schemas.tar_shard import ShardReader
from rhocache_trainer import load_config, train

ROOT = Path(__file__).parents[2]
SHARD = "00000.tar"
WIDTH = 32
CONFIGS = sorted(path.stem for path in (ROOT / "examples/configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of one shard, with a reference that knows nothing."""
    folder = str(tmp_path_factory.mktemp("cache"))
    (shard,) = list_shards(str(ROOT / "examples/openclipart"), SHARD)
    pairs = list(ShardReader(shard))
    vectors = np.random.default_rng(0).normal(size=(2, len(pairs), 1, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    image, text = vectors.astype(np.float16)
    rows = shard_file.ShardRows(
        [pair.key for pair in pairs],
        ["ok"] * len(pairs),
        image,
        text,
        np.einsum("nvd,nvd->n", vectors[0], vectors[1]).astype(np.float32),
        [hash_image(pair.image or b"") for pair in pairs],
        [hash_caption(pair.caption or "") for pair in pairs],
    )
    fingerprint = Fingerprint(
        weights_sha256="0" * 64, architecture={}, preprocessing={}, tokenizer={},
        precision="fp32", dtype="float16",
    )  # fmt: skip
    data = shard_file.encode(rows, fingerprint.digest, "1" * 64)
    storage.write_atomic(layout.shard_file(folder, SHARD), data)
    entry = index.IndexRow(
        SHARD, len(pairs), len(pairs), 0, len(data), shard.size, 0, "1" * 64, "2" * 64,
        hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
    listed = index.encode([entry])
    storage.write_atomic(layout.index_file(folder), listed)
    manifest = Manifest(
        fingerprint=fingerprint, fingerprint_sha256=fingerprint.digest,
        reference=ReferenceSpec(model="local-dir:/gone"), dataset="examples", rows=len(pairs),
        ok=len(pairs), failed=0, failed_by_code={}, shards=1, failed_shards={}, dimension=WIDTH,
        logit_scale=20.0, index_sha256=hashlib.sha256(listed).hexdigest(), batch_size=8,
        software={}, created_at=0.0,
    )  # fmt: skip
    storage.write_atomic(layout.manifest_file(folder), manifest.to_json())
    return folder


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("target", "finetune")])
def test_it_trains(name: str, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _train(name, cache, tmp_path, monkeypatch)


def test_a_trained_model_trains_further(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _train("clip", cache, tmp_path / "clip", monkeypatch)
    _train("finetune", cache, tmp_path / "further", monkeypatch, f"model=local-dir:{model}")


def _train(
    name: str, cache: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *changes: str
) -> str:
    monkeypatch.chdir(ROOT)
    settings = ["batch_size=16", "max_steps=2", "device=cpu", f"data.shards={SHARD}", *changes]
    config = ROOT / "examples/configs" / f"{name}.yaml"
    if "cache:" in config.read_text():
        settings.append(f"cache={cache}")
    result = train(load_config(config, [f"output={folder}/run", *settings]))
    assert result.steps == 2
    return result.model
