"""A study's trial, done: references and caches are made where they are missing."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import experiments.normalizer  # noqa: F401 (an objective that studies name)
from experiments import classification
from experiments.study import (
    AS_IT_IS,
    REFERENCE,
    Outcome,
    Reference,
    Study,
    Trained,
    Trial,
    digest,
    identity,
    names_in,
    placed,
    reference_identity,
)
from rhocache_trainer import EvaluationResult, TrainConfig, evaluate, load_config, train
from rhocache_trainer.model.clip import build_model


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where trials are done, and on what."""

    work: Path
    data: str  # what DATA stands for
    device: str

    def reference(self, reference: Reference) -> str:
        """The folder of a reference, which is made where it is not there yet."""
        if isinstance(reference, str):
            return reference
        folder = self.work / "references" / reference_identity(reference)
        model, done = folder / "model", folder / "done"
        if not done.exists():
            if isinstance(reference, Trained):
                train(self._config(reference.config, reference.changes, {}, folder), resume="auto")
            else:
                build_model(reference.model, reference.pretrained).export(model)
            done.touch()
        return str(model)

    def cache(self, study: Study, trial: Trial, name: str) -> str:
        """What the reference says of a dataset, which is scored where that was not done yet."""
        scored, made = study.scored[name], study.references[str(trial.reference)]
        dataset = scored.dataset or load_config(study.config, trial.changes).data.dataset
        wanted = [reference_identity(made), dataset, scored.shards, *scored.options]
        folder = self.work / "caches" / digest(wanted)
        model, where = self.reference(made), placed(dataset, {"DATA": self.data})
        losses = folder / "losses.parquet"
        if study.task == "classes":
            if not losses.exists():
                classification.write_losses(
                    losses, model, where, study.evaluate["class_field"], self.device
                )
            return str(losses)
        if not (folder / "done").exists():
            command = [Path(sys.executable).with_name("rhocache"), "score", where]
            options = ["--model", f"local-dir:{model}", "--out", str(folder)]
            options += ["--shards", scored.shards] if scored.shards else []
            options += scored.options
            alone = {name: text for name, text in os.environ.items() if name != "OMP_NUM_THREADS"}
            subprocess.run([*command, *options], check=True, env=alone)
            (folder / "done").touch()
        return str(folder)

    def do(self, study: Study, trial: Trial) -> Outcome:
        """Train, evaluate, and leave nothing behind; what it needs is there."""
        started = time.monotonic()
        known_as, steps = identity(study, trial), 0
        folder = self.work / "trials" / known_as
        places = self.places(study, trial)
        model = places.get(REFERENCE, "")
        if trial.arm != AS_IT_IS:
            changes = [*trial.changes, f"seed={trial.seed}"]
            result = train(self._config(study.config, changes, places, folder), resume="auto")
            if result.stopped:
                raise InterruptedError(f"the training of {trial.arm} in {folder} was stopped")
            model, steps = result.model, result.steps
        arguments: dict[str, Any] = {
            name: placed(value, {"DATA": self.data}) if isinstance(value, str) else value
            for name, value in study.evaluate.items()
        }
        if study.task == "classes":
            found = classification.measures(model, device=self.device, **arguments)
        else:
            found = measures(evaluate(model, device=self.device, **arguments))
        shutil.rmtree(folder, ignore_errors=True)
        return Outcome(
            identity=known_as,
            trial=trial,
            measures={name: round(share, 6) for name, share in found.items()},
            steps=steps,
            seconds=round(time.monotonic() - started, 1),
            device=self.device,
        )

    def places(self, study: Study, trial: Trial) -> dict[str, str]:
        """What the names in a trial's changes stand for."""
        if trial.reference is None:
            return {}
        places = {REFERENCE: self.reference(study.references[trial.reference])}
        for name in names_in(trial.changes) & study.scored.keys():
            places[name] = self.cache(study, trial, name)
        return places

    def _config(
        self, config: str, changes: list[str], places: dict[str, str], folder: Path
    ) -> TrainConfig:
        known = places | {"DATA": self.data}
        own = [f"output={folder}", f"device={self.device}", "loggers=[]"]
        return load_config(config, [*(placed(change, known) for change in changes), *own])


def measures(result: EvaluationResult) -> dict[str, float]:
    found = {f"image_to_text@{k}": share for k, share in result.image_to_text.items()}
    found |= {f"text_to_image@{k}": share for k, share in result.text_to_image.items()}
    found["mean_recall"] = sum(found.values()) / len(found)
    if result.zero_shot is not None:
        found["zero_shot"] = result.zero_shot.accuracy
    return found
