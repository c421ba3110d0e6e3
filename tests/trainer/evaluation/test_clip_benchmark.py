"""clip_benchmark on a model that was exported here finds what ``evaluate`` finds."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from rhocache_trainer import evaluate
from rhocache_trainer.model.clip import build_model

from ..conftest import COLOURS, PAIRS, SHARDS, make_pairs

NAMES = sorted(COLOURS)

# The newest clip_benchmark, 1.6.2, makes a float of an array of one number for its acc1, which
# NumPy refuses from 2.4 on. Everything else of it is as its users have it.
RUN = """
import sys
import clip_benchmark.cli
import clip_benchmark.metrics.zeroshot_classification as zero_shot

def accuracy(output, target, topk):
    found = output.topk(max(topk)).indices == target[:, None]
    return [found[:, :k].any(1).float().mean().item() for k in topk]

zero_shot.accuracy = accuracy
sys.exit(clip_benchmark.cli.main())
"""


@pytest.fixture
def model(tmp_path: Path, model_cfg: dict) -> Path:
    torch.manual_seed(5)
    build_model(model_cfg, preprocess={"resize_mode": "squash"}).export(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """The dataset's pairs as clip_benchmark has them, with the number of each one's class."""
    root = tmp_path / "benchmark"
    (root / "test").mkdir(parents=True)
    (root / "test" / "nshards.txt").write_text(str(SHARDS))
    (root / "classnames.txt").write_text("\n".join(NAMES))
    templates = [template("{c}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES]
    (root / "zeroshot_classification_templates.txt").write_text("\n".join(templates))
    for shard in range(SHARDS):
        with tarfile.open(root / "test" / f"{shard}.tar", "w") as tar:
            for pair in make_pairs(shard):
                number = NAMES.index(pair.caption.rpartition(" ")[2])
                members = {"jpg": pair.image, "txt": pair.caption, "cls": str(number)}
                for suffix, content in members.items():
                    data = content if isinstance(content, bytes) else content.encode()
                    info = tarfile.TarInfo(f"{pair.key}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return root


def run(model: Path, root: Path, *arguments: str) -> dict[str, Any]:
    command = [
        *(sys.executable, "-c", RUN, "eval"),
        *("--model", f"local-dir:{model}", "--pretrained", ""),
        *("--dataset", "wds/colours", "--dataset_root", str(root)),
        *("--no_amp", "--num_workers", "0", "--output", str(root / "found.json")),
        *arguments,
    ]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=root, env=offline, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads((root / "found.json").read_text())["metrics"]


def test_zero_shot(model: Path, dataset: Path, benchmark: Path):
    found = run(model, benchmark, "--task", "zeroshot_classification")
    ours = evaluate(str(model), str(dataset), class_field="colour", templates="simple").zero_shot
    assert ours is not None
    assert ours.images == SHARDS * PAIRS
    assert found["acc1"] == pytest.approx(ours.accuracy)
    assert found["mean_per_class_recall"] == pytest.approx(ours.mean_class_accuracy)


def test_retrieval(model: Path, dataset: Path, benchmark: Path):
    (benchmark / "dataset_type.txt").write_text("retrieval")
    found = run(model, benchmark, "--task", "zeroshot_retrieval", "--recall_k", "1", "5", "10")
    ours = evaluate(str(model), str(dataset))
    for k in (1, 5, 10):
        assert found[f"text_retrieval_recall@{k}"] == pytest.approx(ours.image_to_text[k])
        assert found[f"image_retrieval_recall@{k}"] == pytest.approx(ours.text_to_image[k])
