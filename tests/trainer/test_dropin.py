"""The examples of examples/dropin, run as a user runs them, on a shard of the repository's data."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from caches import commit

from rhocache_schemas.cache import shard_file
from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.dataset.shards import list_shards

EXAMPLES = Path(__file__).parents[2] / "examples"
SHARD = "00000.tar"
PAIRS, BATCH = 512, 64
STEPS = PAIRS // BATCH


def embeddings(captions: list[str]) -> np.ndarray:
    """Unit vectors [n, 1, 32] of which those of captions with common words are close."""
    vectors = np.zeros((len(captions), 32))
    for row, caption in zip(vectors, captions, strict=True):
        for word in caption.split():
            row += np.random.default_rng(list(word.encode())).normal(size=32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)[:, None]


def make_cache(folder: Path, dataset: Path) -> None:
    """What ``rhocache score`` would write, of a reference that reads the captions alone."""
    (shard,) = list_shards(str(dataset))
    pairs = list(ShardReader(shard))
    captions = [pair.caption or "" for pair in pairs]
    vectors = embeddings(captions)
    rows = shard_file.ShardRows(
        keys=[pair.key for pair in pairs],
        status=["ok"] * len(pairs),
        image=vectors,
        text=vectors,
        similarity=np.ones(len(pairs), np.float32),
        image_hash=[hash_image(pair.image or b"") for pair in pairs],
        caption_hash=[hash_caption(caption) for caption in captions],
    )
    commit(folder, {SHARD: rows}, dataset=str(dataset))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dropin")
    (folder / "dataset").mkdir()
    (folder / "dataset" / SHARD).symlink_to(EXAMPLES / "openclipart" / SHARD)
    make_cache(folder / "cache", folder / "dataset")
    model = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
        },
    }  # fmt: skip
    (folder / "model").mkdir()
    config = {"model_cfg": model, "preprocess_cfg": {}}
    (folder / "model" / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def run(folder: Path, example: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "dropin" / example, *arguments],
        cwd=folder,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def numbers(printed: str, name: str) -> list[float]:
    return [float(each) for each in re.findall(rf"{name}:? ([-\d.e]+)", printed)]


def check_learns(objectives: list[float]) -> None:
    """An epoch's mean is below the one's before."""
    epochs = np.array(objectives).reshape(-1, STEPS).mean(1)
    assert (np.diff(epochs) < 0).all(), epochs


@pytest.mark.parametrize(
    ("example", "options", "checkpoint", "state"),
    [
        ("plain_loop.py", [], "out.pt", lambda saved: saved["DRRhoClipLoss"]),
        (
            "lightning_module.py",
            ["--accelerator", "cpu", "--devices", "1"],
            "out/last.ckpt",
            lambda saved: {
                name.removeprefix("loss."): value for name, value in saved["state_dict"].items()
            },
        ),
    ],
)
def test_a_loop_of_ones_own(folder: Path, example: str, options: list, checkpoint: str, state):
    arguments = [
        "dataset", "cache", "local-dir:model", checkpoint.split("/")[0],
        *options, "--batch-size", str(BATCH),
    ]  # fmt: skip
    objectives: list[float] = []
    tau = 0.07
    for epochs in (1, 2):  # the second goes on from the first's checkpoint
        printed = run(folder, example, *arguments, "--epochs", str(epochs))
        objectives += numbers(printed, "objective")
        assert len(objectives) == epochs * STEPS
        assert numbers(printed, "tau")[0] == pytest.approx(tau, abs=2e-4)
        saved = state(torch.load(folder / checkpoint, weights_only=True))
        tau = float(saved["temperature.tau"])
        assert saved["image_average.seen"].all()
    check_learns(objectives)


def test_open_clips_own_command(folder: Path):
    objectives: list[float] = []
    for epochs in (1, 2):
        printed = run(
            folder, "steer_open_clip.py", "--drrho-cache", "cache",
            "--train-data", f"dataset/{SHARD}", "--train-num-samples", str(PAIRS),
            "--dataset-type", "webdataset", "--workers", "0", "--batch-size", str(BATCH),
            "--model", "local-dir:model", "--device", "cpu", "--precision", "fp32",
            "--epochs", str(epochs), "--lr", "1e-3", "--warmup", "0", "--log-every-n-steps", "1",
            "--logs", "logs", "--name", "run", "--resume", "latest",
        )  # fmt: skip
        objectives += numbers(printed, "Drrho_loss")
        checkpoints = folder / "logs" / "run" / "checkpoints"
        assert (checkpoints / f"epoch_{epochs}.pt").exists()
        saved = torch.load(checkpoints / f"epoch_{epochs}.drrho", weights_only=True)
        assert saved["image_average.seen"].all()
    assert len(objectives) == 2 * STEPS
    check_learns(objectives)
