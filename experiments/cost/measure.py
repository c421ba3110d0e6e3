"""``python -m experiments cost``: measure targets with their references."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import open_clip
import torch
import yaml

from benchmarks import machine
from benchmarks.peers import random_reference
from benchmarks.shards import split
from benchmarks.train_step import CACHED, NONE, step_times
from experiments.cost.cost import Cost
from rhocache_schemas.documents import Strict
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.run.driver import score

LIVE = "live"
Model = str | dict[str, Any]  # as open_clip names it, or its configuration


class Pair(Strict):
    """A target with its reference, both with random weights: those don't matter to the time."""

    target: str  # as results call it
    model: Model
    reference: str
    reference_model: Model
    data: str
    pairs: int  # of the data, to score and to train on
    batch: int


class Setup(Strict):
    rounds: int
    measured: list[Pair]

    @classmethod
    def read(cls, path: Path) -> "Setup":
        return cls.model_validate(yaml.safe_load(path.read_text()))


def measure(pair: Pair, rounds: int, device: str) -> Cost:
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        split(Path(pair.data), data, pair.pairs // 2, pair.pairs)
        model = random_reference(Path(folder, "model"), _architecture(pair.reference_model))
        arguments = argparse.Namespace(
            data=str(data),
            shards="*.tar",
            model=pair.model,
            batch=pair.batch,
            rounds=rounds,
            device=device,
            precision="bf16" if device == "cuda" else "fp32",
        )
        times = step_times(arguments, {LIVE: f"local-dir:{model}"})
        plain, cached, live = (
            [seconds / pair.batch for seconds in times[name]] for name in (NONE, CACHED, LIVE)
        )
        scoring, stored = zip(
            *(_scored(data, model, Path(folder, f"cache{n}")) for n in range(3)), strict=True
        )
    return Cost(
        target=pair.target,
        reference=pair.reference,
        batch=pair.batch,
        machine=machine.describe(device),
        plain=plain,
        cached=cached,
        live=live,
        scoring=list(scoring),
        stored=stored[0],
    )


def _architecture(model: Model) -> dict[str, Any] | None:
    return open_clip.get_model_config(model) if isinstance(model, str) else model


def _scored(data: Path, model: str, cache: Path) -> tuple[float, float]:
    """Seconds of an encoder, and bytes of the cache, a pair."""
    spec = ScoreSpec(
        dataset=str(data),
        output=str(cache),
        reference=ReferenceSpec(model=f"local-dir:{model}"),
        workers=1,
        metadata={},
    )
    summary = score(spec)
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    return summary.encoder_seconds / summary.rows, size / summary.rows
