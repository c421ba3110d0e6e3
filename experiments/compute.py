"""The floating-point operations of a training, and a study's errors beside them."""

import json
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.study import Outcome, Study
from experiments.summary import Point, Summary
from rhocache_trainer import load_config
from rhocache_trainer.model.clip import build_model

Floats = npt.NDArray[np.float64]


def training_flops(study: Study, outcome: Outcome) -> float:
    """Of the target's towers, forward and backward, over the whole training."""
    config = load_config(study.config, [*outcome.trial.changes, "output=run"])
    return outcome.steps * config.batch_size * _flops_a_pair(json.dumps(config.model))


@cache
def _flops_a_pair(model: str) -> float:
    clip = build_model(json.loads(model))
    image, tokens = torch.zeros(2, 3, *clip.image_size), clip.tokenizer(["a", "b"])
    with FlopCounterMode(display=False) as counter:
        features = clip.module.train()(image, tokens)
        (features["image_features"].sum() + features["text_features"].sum()).backward()
    return counter.get_total_flops() / 2


def errors_by_compute(
    study: Study, summary: Summary, arm: str, points: Sequence[Point]
) -> tuple[Floats, Floats]:
    """Return FLOPs [k], ascending, and errors [k, seeds]: 1 less the study's measure."""
    reference = next(iter(summary.references), None)
    done = [
        (point, outcomes)
        for point in points
        if (outcomes := summary.outcomes((reference, point, arm)))
    ]
    flops = [training_flops(study, next(iter(outcomes.values()))) for _, outcomes in done]
    shares = summary.complete([(reference, point, arm) for point, _ in done], study.measure)
    order = np.argsort(flops)
    return np.array(flops)[order], 1 - shares[order]
