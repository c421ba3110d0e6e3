"""How much of a small model's training step is not its towers: data, tokens, loss, optimizer.

``python -m benchmarks.small_step`` prints CPU time a pair, as Markdown: with one thread, so that
what other processes do to the machine changes it little. The parts take turns in each round.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice

import torch
from torch.nn.utils import clip_grad_norm_

from benchmarks import machine
from benchmarks.train_step import loader_of, random_cache
from rhocache_trainer.data.open import open_pairs
from rhocache_trainer.distributed.launch import launch
from rhocache_trainer.training.config import TrainConfig
from rhocache_trainer.training.learner import Learner

# Some 90 MFLOP a pair, forward and backward.
MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 128, "head_width": 32, "layers": 4},
    "text_cfg": {
        "context_length": 16, "vocab_size": 49408, "width": 96, "heads": 3, "layers": 2,
    },
}  # fmt: skip


def settings(arguments: argparse.Namespace, cache: str | None) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "output": "unused",
            "data": {"dataset": arguments.data, "shards": arguments.shards, "threads": 1},
            "model": MODEL,
            "augmentation": {"scale": [0.6, 1.0], "ratio": [0.8, 1.25]},
            "objective": {"name": "clip"} if cache is None else {"name": "drrho", "rho": 2.0},
            "cache": cache,
            "batch_size": arguments.batch,
            "device": "cpu",
        }
    )


READING = "reading, decoding, tokens, join"
TOWERS = "towers, forward and backward"
WHOLE = "a whole step, without reading"


def parts(config: TrainConfig) -> dict[str, tuple[Callable[[], object], int]]:
    """What a step is made of, and the whole step; each with the pairs that it is done for."""
    pairs = open_pairs(config.data, config.cache)
    learner = Learner(config, launch("cpu", "fp32"), pairs)
    loader = loader_of(config, learner, pairs)
    learner.prepare(1000)
    learner.start_epoch(0)
    batches = iter(loader)
    batch = list(islice(batches, loader.steps))[-1]  # an epoch: captions are known from then on
    module, size = learner.model.module, config.batch_size

    def towers() -> None:
        module.zero_grad()
        out = module(learner.normalize(batch.image), batch.tokens)
        (out["image_features"].sum() + out["text_features"].sum()).backward()

    with torch.no_grad():
        features = module(learner.normalize(batch.image), batch.tokens)

    def loss() -> None:
        leaves = {name: each.detach().requires_grad_() for name, each in features.items()}
        learner.objective(leaves, batch).loss.backward()

    def optimizer() -> None:
        clip_grad_norm_(module.parameters(), 1.0)
        learner.optimizers[0].step()

    return {
        # An epoch at a time: a buffer is filled at its beginning.
        READING: (lambda: list(islice(batches, loader.steps)), loader.steps * size),
        TOWERS: (towers, size),
        "loss": (loss, size),
        "clipping and optimizer": (optimizer, size),
        WHOLE: (lambda: learner.update(batch, steering=False), size),
    }


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    print(machine.describe())
    print("\n| CPU time a pair, µs | plain CLIP | DRRHO from a cache |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        cache = random_cache(folder, arguments.data, arguments.shards)
        found = [
            measure(parts(settings(arguments, each)), arguments.rounds) for each in (None, cache)
        ]
    for name in found[0]:
        print(f"| {name} |" + "".join(f" {each[name]:.0f} |" for each in found))
    shares = [1 - each[TOWERS] / (each[READING] + each[WHOLE]) for each in found]
    print("| **not the towers** |" + "".join(f" {100 * share:.0f} % |" for share in shares))


def measure(parts: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, float]:
    """The median CPU time a pair of each part, in microseconds."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, (part, pairs) in parts.items():
            started = time.process_time()
            part()
            times[name].append((time.process_time() - started) / pairs)
    return {name: 1e6 * statistics.median(each) for name, each in times.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="examples/icons")
    parser.add_argument("--shards", default="0000[01].tar")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10)
    main(parser.parse_args())
