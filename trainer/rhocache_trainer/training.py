"""The training loop."""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any, Literal

import torch
import yaml
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from rhocache_schemas.errors import TrainingError
from rhocache_trainer import checkpoint
from rhocache_trainer.cache import ReferenceCache
from rhocache_trainer.config import TrainConfig
from rhocache_trainer.dataset import Batch
from rhocache_trainer.export import export
from rhocache_trainer.loader import build_loader
from rhocache_trainer.model import build_model, normalizer
from rhocache_trainer.objectives import build_objective
from rhocache_trainer.optimizer import build_optimizer, build_scheduler
from rhocache_trainer.run_log import RunLog
from rhocache_trainer.sources import open_pairs
from rhocache_trainer.stopping import stop_requested

Resume = Literal["never", "auto"]

CHECKPOINT = "checkpoint.pt"
CONFIG = "config.yaml"
MODEL = "model"

_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed"}
_LARGEST_LOGIT_SCALE = math.log(100)  # as in the CLIP paper, and in open_clip's training

# What may differ between a run and its continuation.
_FREE = {"output", "max_steps", "device", "log_every", "checkpoint_every"}


@dataclass(frozen=True, slots=True)
class TrainResult:
    output: str  # the run's folder
    model: str  # the exported model's folder: open_clip's ``local-dir:`` takes it
    steps: int  # in all, those before a continuation included
    epochs: int  # completed
    pairs: int  # seen by this call
    seconds: float  # of this call
    objective: float  # at the last step
    tau: float
    skipped: dict[str, int]  # error code -> pairs left out in the last epoch


def train(config: TrainConfig, *, resume: Resume = "never") -> TrainResult:
    """Train a model and export it.

    ``config.output`` then holds ``model/`` (the export), ``log.jsonl``, ``tensorboard/``,
    ``config.yaml`` and ``checkpoint.pt``. With ``resume="auto"`` a run that has a checkpoint goes
    on from it, to the same end, bit for bit on one machine, as if it had never stopped.

    On SIGINT or SIGTERM the step is finished and saved, then KeyboardInterrupt is raised.

    Raises TrainingError when the folder holds a run that is not to be resumed, or one with other
    settings; InvalidInput, DatasetError, CacheError and their kin for what the config names.
    """
    begun = (Path(config.output) / CHECKPOINT).exists()
    if begun and resume == "never":
        raise TrainingError(
            f"{config.output} already holds a run; resume it, or choose another output"
        )
    run = _Run(config)
    if begun:
        run.restore()
    return run.train()


class _Run:
    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.folder = Path(config.output)
        self.checkpoint = self.folder / CHECKPOINT
        self.fabric = Fabric(
            accelerator=config.device, devices=1, precision=_PRECISION[config.precision]
        )
        torch.manual_seed(config.seed)
        self.model = build_model(config.model, config.pretrained, config.preprocess)
        self.pairs = open_pairs(config.data, config.cache)
        self.loader = build_loader(
            config.data,
            self.pairs,
            self.model.tokenizer,
            self.model.image_size,
            config.augmentation,
            batch_size=config.batch_size,
            seed=config.seed,
        )
        self.skipped: Counter[str] = Counter()  # in this epoch
        self.total_steps = config.epochs * self.loader.steps
        manifest = None if config.cache is None else ReferenceCache.open(config.cache).manifest
        objective = build_objective(config.objective, self.pairs.n, manifest)
        self.objective = objective.to(self.fabric.device)
        # Convolutions are faster with channels last, on CPUs as well; nothing else changes.
        module = self.model.module.to(self.fabric.device, memory_format=torch.channels_last)
        if self.objective.own_temperature:
            module.logit_scale.requires_grad_(False)  # the risk has a temperature of its own
            if module.logit_bias is not None:
                module.logit_bias.requires_grad_(False)
        self.normalize = normalizer(self.model.preprocess_cfg, self.fabric.device)
        tau_lr = getattr(config.objective, "tau_lr", config.optimizer.lr)
        optimizer = build_optimizer(config.optimizer, module, self.objective.parameters(), tau_lr)
        self.scheduler = build_scheduler(config.optimizer, optimizer, self.total_steps)
        self.wrapped, self.optimizer = self.fabric.setup(module, optimizer)
        self.step = 0
        self.objective_value = self.tau = torch.tensor(math.nan)  # of the last step

    def train(self) -> TrainResult:
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.config.model_dump(mode="json")
        (self.folder / CONFIG).write_text(yaml.safe_dump(settings, sort_keys=False))
        started, first = time.monotonic(), self.step
        limit = self.config.max_steps or sys.maxsize
        steps = min(self.total_steps, limit)
        with (
            stop_requested() as stop,
            RunLog(self.folder, name=self.folder.name, step=first, steps=steps) as log,
        ):
            batches = iter(self.loader)
            while self.step < steps:
                self._train_epoch(batches, log, limit, stop)
        if self.step > first:
            self.save()
        self._give_temperature_to_model()
        export(self.model, self.folder / MODEL)
        return TrainResult(
            output=str(self.folder),
            model=str(self.folder / MODEL),
            steps=self.step,
            epochs=self.step // self.loader.steps,
            pairs=(self.step - first) * self.config.batch_size,
            seconds=time.monotonic() - started,
            objective=float(self.objective_value),
            tau=float(self.tau),
            skipped=dict(self.skipped),
        )

    def _train_epoch(self, batches: Iterator[Batch], log: RunLog, limit: int, stop: Event) -> None:
        """Train on one epoch, or what is left of it, until ``limit`` steps are done."""
        self.wrapped.train()
        epoch, done = divmod(self.step, self.loader.steps)
        self.objective.start_epoch(epoch, self.config.epochs)
        if not done:
            self.skipped.clear()
        for batch in islice(batches, self.loader.steps - done):
            self.skipped.update(batch.skipped)
            lr = self.optimizer.param_groups[0]["lr"]
            norm = self._train_step(batch.to(self.fabric.device))
            self.step += 1
            log.advance(self.step)
            if self.step % self.config.log_every == 0 or self.step == min(limit, self.total_steps):
                self._write(log, epoch, lr, float(norm))
            if self.step % self.config.checkpoint_every == 0 or stop.is_set():
                self.save()
            if stop.is_set():
                raise KeyboardInterrupt
            if self.step >= limit:
                return

    def _write(self, log: RunLog, epoch: int, lr: float, gradient_norm: float) -> None:
        objective = float(self.objective_value)
        if not math.isfinite(objective):
            raise TrainingError(
                f"step {self.step}: the objective is {objective}; "
                "a lower optimizer.lr or a longer optimizer.warmup may help"
            )
        log.write(
            self.step,
            self.config.batch_size,
            {
                "epoch": epoch,
                "objective": objective,
                "tau": float(self.tau),
                "lr": lr,
                "gradient_norm": gradient_norm,
                "skipped": self.skipped.total(),
            },
        )

    def _train_step(self, batch: Batch) -> Tensor:
        """Make one update; give the gradients' norm before clipping."""
        features = self.wrapped(self.normalize(batch.image), batch.tokens)
        out = self.objective(features, batch)
        self.optimizer.zero_grad()
        self.fabric.backward(out.loss)
        largest = self.config.optimizer.clip_grad_norm or math.inf
        norm = clip_grad_norm_(self.wrapped.parameters(), largest)
        self.optimizer.step()
        self.scheduler.step()
        if not self.objective.own_temperature:
            with torch.no_grad():
                self.model.module.logit_scale.clamp_(0, _LARGEST_LOGIT_SCALE)
        self.objective_value, self.tau = out.objective, out.tau
        return norm

    def save(self) -> None:
        checkpoint.save(
            self.checkpoint,
            {
                "settings": self._fixed_settings(),
                "pairs": self.pairs.identity,
                "step": self.step,
                "objective_value": self.objective_value,
                "tau": self.tau,
                "data": self.loader.state_dict(),
                "skipped": dict(self.skipped),
                "model": self.model.module.state_dict(),
                "objective": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "random": checkpoint.random_state(),
            },
        )

    def restore(self) -> None:
        state = checkpoint.load(self.checkpoint)
        ours, theirs = self._fixed_settings(), state["settings"]
        differing = [name for name in ours if ours[name] != theirs.get(name)]
        if differing:
            raise TrainingError(
                f"{self.folder} holds a run with other settings for {', '.join(differing)}; "
                "resume it with its own, or choose another output"
            )
        if state["pairs"] != self.pairs.identity:
            raise TrainingError(
                f"{self.folder} holds a run on other pairs: the dataset or the cache has changed"
            )
        self.step = state["step"]
        self.objective_value, self.tau = state["objective_value"], state["tau"]
        self.loader.load_state_dict(state["data"])
        self.skipped = Counter(state["skipped"])
        self.model.module.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        checkpoint.restore_random_state(state["random"])

    def _fixed_settings(self) -> dict[str, Any]:
        settings = self.config.model_dump(mode="json")
        return {name: value for name, value in settings.items() if name not in _FREE}

    def _give_temperature_to_model(self) -> None:
        """An exported model carries the temperature that it was trained at."""
        if self.objective.own_temperature:
            with torch.no_grad():
                self.model.module.logit_scale.fill_(-math.log(self.tau))
