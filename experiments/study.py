"""A study: trainings that differ in one thing, each repeated over seeds, and what came of them.

A study is a YAML file (see ``experiments/studies``). Its arms are lists of changes to one training
config, as the command line takes them; its grid is more changes, of which every combination is
tried with every arm. A trial's outcome is a line of JSON; a trial that has one is not run again.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from rhocache_schemas.documents import Strict
from rhocache_schemas.weights.file import WEIGHTS
from rhocache_trainer import EvaluationResult, evaluate, load_config, train

Value = str | int | float  # of a setting


class Scored(Strict):
    """What a reference scores before training."""

    dataset: str
    shards: str | None = None


class Study(Strict):
    title: str
    question: str
    config: str  # of a training, which arms change
    scored: Scored
    evaluate: dict[str, Any]  # arguments of ``rhocache_trainer.evaluate``, without the model
    # A reference's folder, by the name that stands in results.
    references: dict[str, str] = Field(min_length=1)
    arms: dict[str, list[str]]
    grid: dict[str, list[Value]] = Field(default_factory=dict[str, list[Value]])
    seeds: list[int]
    baseline: str  # the arm that others are compared with
    measure: str = "zero_shot"  # that the figure shows
    seen: list[str]  # sentences, as templates over the results

    @classmethod
    def read(cls, path: Path, **places: str) -> "Study":
        """Read a YAML file in which the names of ``places`` stand for paths."""
        text = path.read_text()
        for name, place in places.items():
            text = text.replace(name, place)
        return cls.model_validate(yaml.safe_load(text))


class Trial(Strict):
    """One training, or with ``arm`` "as it is" none: the reference itself is evaluated."""

    arm: str
    reference: str
    point: dict[str, Value]  # of the grid
    changes: list[str]
    seed: int


class Outcome(Strict):
    """A line of a study's results."""

    identity: str
    trial: Trial
    measures: dict[str, float]  # shares from 0 to 1
    steps: int
    seconds: float
    device: str


AS_IT_IS = "the reference as it is"


def trials(study: Study) -> Iterator[Trial]:
    for name in study.references:
        yield Trial(arm=AS_IT_IS, reference=name, point={}, changes=[], seed=0)
    points = [
        dict(zip(study.grid, values, strict=True)) for values in product(*study.grid.values())
    ]
    for seed, point, reference in product(study.seeds, points, study.references):
        for arm, changes in study.arms.items():
            changed = [*changes, *(f"{key}={value}" for key, value in point.items())]
            yield Trial(arm=arm, reference=reference, point=point, changes=changed, seed=seed)


# Where things lie, and what changes nothing.
_FREE = {"output": True, "cache": True, "device": True, "loggers": True, "data": {"dataset"}}


def identity(study: Study, trial: Trial) -> str:
    """Differs where another outcome is to be expected: another setting, or another reference."""
    reference = study.references[trial.reference]
    settings = None
    if trial.arm != AS_IT_IS:
        changes = [change.replace("CACHE", "cache") for change in trial.changes]
        config = load_config(study.config, [*changes, "output=run", f"seed={trial.seed}"])
        settings = config.model_dump(mode="json", exclude=_FREE)
    measured = {key: value for key, value in study.evaluate.items() if key != "dataset"}
    whole = [trial.arm, _sha256(Path(reference) / WEIGHTS), settings, measured]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """By identity; a last line that was cut short is none."""
    if not path.exists():
        return {}
    *lines, _ = path.read_text().split("\n")
    outcomes = map(Outcome.model_validate_json, lines)
    return {outcome.identity: outcome for outcome in outcomes}


def run_trial(
    study: Study, trial: Trial, caches: dict[str, str], work: Path, device: str
) -> Outcome:
    """Train, evaluate, and leave nothing behind."""
    started = time.monotonic()
    model, steps = study.references[trial.reference], 0
    known_as = identity(study, trial)
    folder = work / known_as
    if trial.arm != AS_IT_IS:
        settings = [f"output={folder}", f"seed={trial.seed}", f"device={device}", "loggers=[]"]
        changes = [change.replace("CACHE", caches[trial.reference]) for change in trial.changes]
        result = train(load_config(study.config, [*settings, *changes]), resume="auto")
        model, steps = result.model, result.steps
    found = evaluate(model, device=device, **study.evaluate)
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(
        identity=known_as,
        trial=trial,
        measures=measures(found),
        steps=steps,
        seconds=round(time.monotonic() - started, 1),
        device=device,
    )


def measures(result: EvaluationResult) -> dict[str, float]:
    found = {f"image_to_text@{k}": share for k, share in result.image_to_text.items()}
    found |= {f"text_to_image@{k}": share for k, share in result.text_to_image.items()}
    found["mean_recall"] = sum(found.values()) / len(found)
    if result.zero_shot is not None:
        found["zero_shot"] = result.zero_shot.accuracy
    return {name: round(share, 6) for name, share in found.items()}


def cache_of(study: Study, reference: str, work: Path) -> str:
    """The folder of a reference's cache: ``rhocache score`` makes it there."""
    weights = Path(study.references[reference]) / WEIGHTS
    wanted = json.dumps([_sha256(weights), study.scored.model_dump()])
    return str(work / "caches" / hashlib.sha256(wanted.encode()).hexdigest()[:16])
