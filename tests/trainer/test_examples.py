"""Every example configuration trains, on the repository's own pairs."""

from pathlib import Path

import numpy as np
import pytest
from caches import commit

from rhocache_schemas.cache import shard_file
from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.dataset.shards import list_shards
from rhocache_trainer import load_config, train

ROOT = Path(__file__).parents[2]
SHARD = "00000.tar"
WIDTH = 128  # as examples/reference has it
CONFIGS = sorted(path.stem for path in (ROOT / "examples/configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of one shard, each with a reference that knows nothing."""
    return [_write_cache(str(tmp_path_factory.mktemp("cache")), width) for width in (WIDTH, 24)]


def _write_cache(folder: str, width: int) -> str:
    (shard,) = list_shards(str(ROOT / "examples/icons"), SHARD)
    pairs = list(ShardReader(shard))
    vectors = np.random.default_rng(0).normal(size=(2, len(pairs), 1, width))
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
    return str(commit(folder, {SHARD: rows}, logit_scale=20.0))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("target", "finetune")])
def test_it_trains(
    name: str, caches: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(name, caches, tmp_path, monkeypatch)


def test_a_trained_model_trains_further(
    caches: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _train("clip", caches, tmp_path / "clip", monkeypatch)
    _train("finetune", caches, tmp_path / "further", monkeypatch, f"model=local-dir:{model}")


def _train(
    name: str, caches: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, *changes: str
) -> str:
    monkeypatch.chdir(ROOT)
    settings = ["batch_size=16", "max_steps=2", "device=cpu", f"data.shards={SHARD}", *changes]
    config = ROOT / "examples/configs" / f"{name}.yaml"
    if "cache: [" in config.read_text():
        settings.append(f"cache=[{','.join(caches)}]")
    elif "\ncache:" in config.read_text():
        settings.append(f"cache={caches[0]}")
    if "cached: {cache" in config.read_text():
        settings.append(f"cached.cache={caches[0]}")
    result = train(load_config(config, [f"output={folder}/run", *settings]))
    assert result.steps == 2
    return result.model
