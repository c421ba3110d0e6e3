"""A study: trainings that differ in one thing, each repeated over seeds.

A study is a YAML file (see ``experiments/studies``). Its arms are lists of changes to one training
config, as the command line takes them; its grid is more changes, of which every combination is
tried with every arm. In changes and paths DATA stands for where the icons lie, REFERENCE for the
reference's folder, and a name under ``scored`` for the cache that the reference makes of that, or
where the ``task`` is classes for the table of its losses.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache, reduce
from itertools import product
from operator import getitem
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from rhocache_schemas.documents import Strict
from rhocache_schemas.weights.file import WEIGHTS
from rhocache_trainer import load_config

Value = str | int | float  # of a setting


class Scored(Strict):
    """What a reference scores before training: without ``dataset``, what a trial trains on."""

    dataset: str | None = None
    shards: str | None = None
    options: list[str] = Field(default_factory=list[str])  # more of ``rhocache score``


class Trained(Strict):
    """A reference that is trained before anything else, as a training config says."""

    config: str
    changes: list[str] = Field(default_factory=list[str])


class Released(Strict):
    """A reference that open_clip can fetch: ViT-B-32 and openai, say."""

    model: str
    pretrained: str | None = None


Reference = str | Trained | Released  # or the folder of an open_clip local-dir


class Study(Strict):
    title: str
    question: str
    task: Literal["pairs", "classes"] = "pairs"
    config: str  # of a training, which arms change
    references: dict[str, Reference]  # by the name in results
    scored: dict[str, Scored]
    # Arguments of ``rhocache_trainer.evaluate``, or of ``classification.measures``.
    evaluate: dict[str, Any]
    common: list[str] = Field(default_factory=list[str])  # changes of every arm, before its own
    arms: dict[str, list[str]]
    grid: dict[str, dict[Value, list[str]]] = Field(
        default_factory=dict[str, dict[Value, list[str]]]
    )
    seeds: list[int]
    baseline: str  # the arm that others are compared with
    measure: str = "zero_shot"  # that the figure shows
    figure: Literal["bars", "curves", "compute", "teachers"] = "bars"
    seen: list[str]  # sentences, as templates over the results

    @classmethod
    def read(cls, path: Path) -> "Study":
        return cls.model_validate(yaml.safe_load(path.read_text()))


class Trial(Strict):
    """One training, or with ``arm`` "as it is" none: the reference itself is evaluated."""

    arm: str
    reference: str | None  # None for an arm that has no use for one
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
REFERENCE = "REFERENCE"
_NAME = re.compile(r"\b[A-Z][A-Z0-9_]+\b")


def names_in(changes: list[str]) -> set[str]:
    return set(_NAME.findall(" ".join(changes)))


def placed(text: str, places: dict[str, str]) -> str:
    return _NAME.sub(lambda name: places.get(name[0], name[0]), text)


def trials(study: Study) -> Iterator[Trial]:
    for name in study.references:
        yield Trial(arm=AS_IT_IS, reference=name, point={}, changes=[], seed=0)
    axes = [[(axis, value) for value in values] for axis, values in study.grid.items()]
    for seed, point, (arm, own) in product(study.seeds, product(*axes), study.arms.items()):
        of_point = (change for axis, value in point for change in study.grid[axis][value])
        changes = [*study.common, *own, *of_point]
        wants_one = names_in(changes) & {REFERENCE, *study.scored}
        for reference in study.references if wants_one else [None]:
            yield Trial(arm=arm, reference=reference, point=dict(point), changes=changes, seed=seed)


def identity(study: Study, trial: Trial) -> str:
    """Differs where another outcome is to be expected: another setting, or another reference."""
    settings = None
    if trial.arm != AS_IT_IS:
        settings = settings_of(study.config, [*trial.changes, f"seed={trial.seed}"])
    reference = trial.reference and reference_identity(study.references[trial.reference])
    used = [study.scored[name] for name in sorted(names_in(trial.changes) & study.scored.keys())]
    options = [each.options for each in used if each.options]
    return digest([settings, reference, study.evaluate, *options])


def reference_identity(reference: Reference) -> str:
    if isinstance(reference, Trained):
        return digest(settings_of(reference.config, reference.changes))
    if isinstance(reference, Released):
        return digest(reference.model_dump())
    return _sha256(Path(reference) / WEIGHTS)


# Where things lie, and what changes nothing.
_FREE: Any = dict.fromkeys(
    ["output", "cache", "device", "loggers", "log_every", "checkpoint_every", "keep_checkpoints"],
    True,
) | {"objective": {"sharded"}}
# What came after the first outcomes, and is left out where it is what they had.
_LATER: dict[str, Any] = {
    "references": None,
    "replay": {"order": "auto", "views": None, "captions": None},
    "cached": None,
    "data.only": None,
    "data.image_suffix": None,
    "data.caption_suffix": None,
    "data.captions": None,
    "augmentation.color_jitter": 0.0,
    "augmentation.grayscale": 0.0,
    "augmentation.rand_augment": 0,
}


def settings_of(config: str, changes: list[str]) -> dict[str, Any]:
    whole = load_config(config, [*changes, "output=run"])
    settings = whole.model_dump(mode="json", exclude=_FREE)
    for path, before in _LATER.items():
        *parents, last = path.split(".")
        place = reduce(getitem, parents, settings)
        if place[last] == before:
            del place[last]
    return settings


def digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


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


def outcomes_of(study: Study, path: Path) -> list[Outcome]:
    """Those that the study's trials have, in their order: not those of settings that it had."""
    done = read_outcomes(path)
    wanted = {identity(study, trial): trial for trial in trials(study)}
    return [
        done[known_as].model_copy(update={"trial": trial})
        for known_as, trial in wanted.items()
        if known_as in done
    ]
