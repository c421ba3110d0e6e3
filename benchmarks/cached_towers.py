"""Rows a core-second with a cached tower, beside the same training with the tower run and frozen.

``python -m benchmarks.cached_towers`` prints them, as Markdown. In each round all contestants make
some steps, one after another, reading and decoding included. Seconds are those that all threads
were at work, so that a machine with other work tells the same.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import open_clip
import torch

from benchmarks import machine
from benchmarks.train_step import WIDTH, random_cache
from rhocache_trainer.training.config import TrainConfig
from rhocache_trainer.training.loop import _Run  # pyright: ignore[reportPrivateUsage]

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
ORDINARY = "ordinary: pictures read, decoded, image tower run and frozen"
TEXTS_ALONE = "image tower cached: captions read, text tower trained"
HEADS = "both towers cached: adapters trained"


def settings(arguments: argparse.Namespace, cache: str) -> dict[str, dict[str, Any]]:
    """The settings of each contestant's run."""
    vision: Any = open_clip.get_model_config(arguments.vision)
    common = {
        "data": {"dataset": arguments.data, "shards": arguments.shards},
        "objective": "clip",
        "batch_size": arguments.batch,
        "device": "cpu",
    }
    model = {"embed_dim": WIDTH, "text_cfg": TEXT}
    whole = model | {"vision_cfg": vision["vision_cfg"]}
    return {
        ORDINARY: common | {"model": whole, "freeze": {"image": 0}},
        TEXTS_ALONE: common | {"model": model, "cached": {"cache": cache, "image": "as_is"}},
        HEADS: common | {"cached": {"cache": cache, "image": "adapter", "text": "adapter"}},
    }


class Contestant:
    def __init__(self, config: dict[str, Any], folder: str) -> None:
        self._batch_size = config["batch_size"]
        self._run = _Run(TrainConfig.model_validate(config | {"output": folder}))
        self._run.learner.start_epoch(0)
        self._batches: Iterator[Any] = iter(self._run.loader)
        self.reading = 0.0  # core-seconds before a batch is there
        self.all = 0.0

    def rows_per_second(self, steps: int) -> float:
        started = time.process_time()
        for _ in range(steps):
            asked = time.process_time()
            batch = next(self._batches)
            self.reading += time.process_time() - asked
            self._run.learner.update(batch, steering=False)
        took = time.process_time() - started
        self.all += took
        return steps * self._batch_size / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="examples/openclipart")
    parser.add_argument("--shards", default="*.tar")
    parser.add_argument(
        "--vision", default="local-dir:examples/reference", help="whose image tower is run"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # several would spin where they wait
    with tempfile.TemporaryDirectory() as folder:
        cache = random_cache(f"{folder}/cache", arguments.data, arguments.shards)
        contestants = {
            name: Contestant(config, f"{folder}/{number}")
            for number, (name, config) in enumerate(settings(arguments, cache).items())
        }
        for contestant in contestants.values():
            contestant.rows_per_second(1)
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(arguments.rounds):
            for name, contestant in contestants.items():
                rates[name].append(contestant.rows_per_second(arguments.steps))
    print(f"{machine.describe('cpu')}, 1 thread, float32.\n")
    print(f"{arguments.data}, batches of {arguments.batch}, image tower of {arguments.vision}.\n")
    print("| | rows a core-second | ordinary = 1 | all | of it reading |\n|---|---|---|---|---|")
    for name, each in rates.items():
        ratios = [one / plain for one, plain in zip(each, rates[ORDINARY], strict=True)]
        told = " ".join(f"{ratio:.1f}" for ratio in ratios)
        waits = contestants[name].reading / contestants[name].all
        print(
            f"| {name} | {statistics.median(each):,.0f} | {statistics.median(ratios):.1f} "
            f"| {told} | {100 * waits:.0f} % |"
        )


if __name__ == "__main__":
    main()
