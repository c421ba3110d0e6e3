"""What steering costs a training step: with a cached reference, with a live one, and with none.

``python -m benchmarks.train_step`` prints the steps' times, as Markdown. In each round all
contestants make a step of the same model, one after another. Reading and decoding of the pairs are
in the time on a CPU; with ``--device cuda`` they are not, as other processes do them meanwhile.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from open_clip import create_model

from benchmarks import machine
from benchmarks.join import write_cache
from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.dataset.shards import list_shards
from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.data.join import PairSource
from rhocache_trainer.data.loader import PairLoader, build_loader
from rhocache_trainer.data.open import open_pairs
from rhocache_trainer.distributed.launch import launch
from rhocache_trainer.objectives import Objective
from rhocache_trainer.training.config import TrainConfig
from rhocache_trainer.training.learner import Learner

NONE = "no reference (global)"
CACHED = "cached reference (DRRHO, rhocache)"
WIDTH = 512


def random_cache(folder: str, data: str, shards: str) -> str:
    """What a reference says does not matter to the time."""
    read = {
        shard.name: [
            (pair.key, hash_image(pair.image or b""), hash_caption(pair.caption or ""))
            for pair in ShardReader(shard)
        ]
        for shard in list_shards(data, shards)
    }
    return write_cache(Path(folder), read, WIDTH)


def settings(arguments: argparse.Namespace, cache: str | None) -> TrainConfig:
    name = "global" if cache is None else "drrho"
    return TrainConfig.model_validate(
        {
            "output": "unused",
            "data": {"dataset": arguments.data, "shards": arguments.shards},
            "model": arguments.model,
            "objective": {"name": name, "rho": 2.0},
            "cache": cache,
            "batch_size": arguments.batch,
            "device": arguments.device,
            "precision": arguments.precision,
        }
    )


def loader_of(config: TrainConfig, learner: Learner, pairs: PairSource) -> PairLoader:
    return build_loader(
        config.data,
        pairs,
        learner.model.tokenizer,
        learner.model.image_size,
        config.augmentation,
        batch_size=config.batch_size,
        seed=0,
    )


class Contestant:
    """An objective, and the batches that it takes."""

    def __init__(
        self,
        learner: Learner,
        config: TrainConfig,
        reference: Callable[[Batch], Batch] | None = None,
    ) -> None:
        live = reference is not None
        pairs = open_pairs(config.data, None if live else config.cache)
        loader = loader_of(config, learner, pairs)
        self._learner = learner
        self._objective: Objective = config.objective.build(pairs).to(config.device)
        self._batches: Iterator[Batch] = iter(loader)
        self._device = torch.device(config.device)
        self._reference = reference

    def step(self) -> float:
        self._learner.objective = self._objective
        started = time.perf_counter()
        batch = next(self._batches).to(self._device)
        if self._device.type == "cuda":
            machine.wait_for("cuda")
            started = time.perf_counter()
        if self._reference is not None:
            batch = self._reference(batch)
        self._learner.update(batch, steering=False)
        machine.wait_for(self._device.type)
        return time.perf_counter() - started


def live(model: str, normalize: Any, arguments: argparse.Namespace) -> Callable[[Batch], Batch]:
    """Encode batches by a model that open_clip can name, as a training without a cache does."""
    reference: Any = create_model(model, device=arguments.device, output_dict=True).eval()
    reference.to(memory_format=torch.channels_last)
    half = arguments.precision == "bf16"

    @torch.no_grad()
    def encode(batch: Batch) -> Batch:
        with torch.autocast(arguments.device, torch.bfloat16, enabled=half):
            features = reference(normalize(batch.image), batch.tokens)
        image, text = features["image_features"], features["text_features"]
        return replace(batch, reference_image=image, reference_text=text)

    return encode


def step_times(arguments: argparse.Namespace, references: dict[str, str]) -> dict[str, list[float]]:
    """Seconds of each round's step by contestant; live references are given by their label."""
    with tempfile.TemporaryDirectory() as folder:
        cache = random_cache(folder, arguments.data, arguments.shards)
        steered, plain = settings(arguments, cache), settings(arguments, None)
        pairs = open_pairs(steered.data, steered.cache)
        learner = Learner(steered, launch(steered.device, steered.precision), pairs)
        learner.prepare(10**6)
        learner.start_epoch(0)
        contestants = {NONE: Contestant(learner, plain), CACHED: Contestant(learner, steered)}
        for label, model in references.items():
            reference = live(model, learner.normalize, arguments)
            contestants[label] = Contestant(learner, steered, reference)
        for contestant in contestants.values():
            contestant.step()
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(arguments.rounds):
            for name, contestant in contestants.items():
                times[name].append(contestant.step())
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="examples/openclipart")
    parser.add_argument("--shards", default="*.tar")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--larger", default="ViT-B-16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    times = step_times(
        arguments,
        {
            f"live reference of the same size ({arguments.model})": arguments.model,
            f"live reference of larger ({arguments.larger})": arguments.larger,
        },
    )
    threads = ", 2 threads" if arguments.device == "cpu" else ""
    print(f"{machine.describe(arguments.device)}{threads}, {arguments.precision}.\n")
    print(
        f"{arguments.model}, batches of {arguments.batch}, medians of {arguments.rounds} rounds.\n"
    )
    print("| | ms a step | step without a reference = 1 | all |\n|---|---|---|---|")
    for name, each in times.items():
        ratios = [one / none for one, none in zip(each, times[NONE], strict=True)]
        told = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"| {name} | {1000 * statistics.median(each):,.1f} "
            f"| {statistics.median(ratios):.3f} | {told} |"
        )


if __name__ == "__main__":
    main()
