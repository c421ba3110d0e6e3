"""The training loop: epochs, checkpoints, logging, and stopping between two steps."""

import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rhocache_schemas.errors import InvalidInput, TrainingError
from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.data.join import PairSource
from rhocache_trainer.data.loader import build_loader
from rhocache_trainer.data.open import open_pairs
from rhocache_trainer.data.replay import replay_of, turns_of
from rhocache_trainer.distributed.collectives import Ranks
from rhocache_trainer.distributed.launch import launch
from rhocache_trainer.loss import diagnostics
from rhocache_trainer.run_folder import LogRecord, RunFolder
from rhocache_trainer.training import checkpoint
from rhocache_trainer.training.checkpoint import Checkpoints
from rhocache_trainer.training.config import TrainConfig
from rhocache_trainer.training.deltas import write_deltas
from rhocache_trainer.training.hard_negatives import Heaviest
from rhocache_trainer.training.learner import Learner, Update
from rhocache_trainer.training.loggers import check_loggers
from rhocache_trainer.training.rounding import RoundingWatch
from rhocache_trainer.training.run_log import RunLog
from rhocache_trainer.training.signals import Stop, noting_signals

Resume = Literal["never", "auto"]

# What may differ between a run and its continuation.
_FREE: Any = {
    "output": True,
    "max_steps": True,
    "device": True,
    "log_every": True,
    "loggers": True,
    "checkpoint_every": True,
    "keep_checkpoints": True,
    "objective": {"sharded"},
}


@dataclass(frozen=True, slots=True)
class TrainResult:
    output: str  # the run's folder
    model: str  # the exported model's folder: open_clip's ``local-dir:`` takes it
    steps: int  # in all, those before a continuation included
    epochs: int  # completed
    pairs: int  # trained on by this call, on all ranks
    seconds: float  # of this call
    objective: float  # at the last step
    tau: float | None  # None for an objective that has none
    skipped: dict[str, int]  # error code -> pairs that this rank left out in the last epoch
    stopped: bool  # by SIGTERM; saved, but not exported


def train(
    config: TrainConfig, *, resume: Resume = "never", stop: Stop | None = None
) -> TrainResult:
    """Train a model and export it.

    ``config.output`` is then a ``RunFolder``, with the export in ``model/``. With ``resume="auto"``
    a run that has a checkpoint goes on from it, to the same end, bit for bit on one machine, as if
    it had never stopped.

    Where torchrun or Ray Train has started several processes they train together; all call this
    with the same config, whose ``output`` must be one folder for all.

    On a signal the step is finished and saved. After SIGINT KeyboardInterrupt is raised; after
    SIGTERM, by which machines are taken away, the result says ``stopped``. Where this does not run
    in the main thread, setting ``stop.signal`` from another one has the effect of a signal.

    Raises TrainingError when the folder holds a run that is not to be resumed, or one with other
    settings; InvalidInput, DatasetError, CacheError and their kin for what the config names.
    """
    check_output(config, resume)
    check_loggers(config.loggers)
    run = _Run(config)
    if run.checkpoints.exist():
        run.restore()
    return run.train(stop or Stop())


def check_output(config: TrainConfig, resume: Resume) -> None:
    """Raises TrainingError when the folder holds a run that is not to be resumed."""
    if resume == "never" and _checkpoints(config).exist():
        raise TrainingError(
            f"{config.output} already holds a run; resume it, or choose another output"
        )


def _checkpoints(config: TrainConfig) -> Checkpoints:
    return Checkpoints(RunFolder(Path(config.output)).checkpoints, config.keep_checkpoints)


def _open_pairs(config: TrainConfig) -> PairSource:
    if config.cached is None:
        return config.objective.open_pairs(config.data, config.caches, config.references)
    return open_pairs(
        config.data,
        config.caches,
        config.references,
        cached=config.embeddings,
        reads="nothing" if config.cached.both else "captions" if config.cached.image else "all",
    )


class _Run:
    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.folder = RunFolder(Path(config.output))
        self.checkpoints = _checkpoints(config)
        self.fabric = launch(config.device, config.precision)
        self.ranks = Ranks()
        self.pairs = _open_pairs(config)
        self.learner = Learner(config, self.fabric, self.pairs)
        share, rest = divmod(config.batch_size, self.fabric.world_size)
        if rest:
            raise InvalidInput(
                f"batch_size={config.batch_size} is the pairs of all {self.fabric.world_size} "
                "processes, and can't be shared out equally among them"
            )
        references, model = self.pairs.references, self.learner.model
        manifests = [] if references is None else references.manifests
        size = None if config.cached and config.cached.image else model.image_size
        replay = None
        if config.cached is None:
            replay = replay_of(config.replay, manifests, model.image_size)
        self.loader = build_loader(
            config.data,
            self.pairs,
            model.tokenizer,
            size,
            config.augmentation,
            replay,
            turns_of(config.replay, replay, config.seed),
            batch_size=config.objective.super_batch(share),
            seed=config.seed,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )
        self.total_steps = config.epochs * self.loader.steps
        self.learner.prepare(self.total_steps)
        self.step = self.passed_over = 0
        self.objective = math.nan  # of the last step
        self.tau: float | None = None
        self.rounding = RoundingWatch(manifests if self.fabric.is_global_zero else [])
        self.skipped: Counter[str] = Counter()  # in this epoch

    def train(self, stop: Stop) -> TrainResult:
        started, first = time.monotonic(), self.step
        steps = min(self.total_steps, self.config.max_steps or sys.maxsize)
        if self.fabric.is_global_zero:
            self.folder.write_config(self.config.model_dump(mode="json"))
        with noting_signals(stop), self._log(steps) as log:
            batches = islice(self.loader, self.passed_over, None)
            try:
                while self.step < steps and not self._stopped(stop):
                    self._train_epoch(batches, log, steps, stop)
            finally:
                self.loader.close()
        stopped = self._stopped(stop)
        if self.step > first:
            self.save()
        if stopped == signal.SIGINT:
            raise KeyboardInterrupt
        if not stopped:
            self._write_deltas()
            if self.fabric.is_global_zero:
                self._export()
        return TrainResult(
            output=str(self.folder.path),
            model=str(self.folder.model),
            steps=self.step,
            epochs=self.step // self.loader.steps,
            pairs=(self.step - first) * self.config.batch_size,
            seconds=time.monotonic() - started,
            objective=self.objective,
            tau=self.tau,
            skipped=dict(self.skipped),
            stopped=bool(stopped),
        )

    def _train_epoch(
        self, batches: Iterator[Batch], log: RunLog | None, steps: int, stop: Stop
    ) -> None:
        """Train on one epoch, or what is left of it, until ``steps`` are done."""
        epoch, done = divmod(self.step, self.loader.steps)
        self.learner.start_epoch(epoch)
        if not done:
            self.skipped.clear()
        heaviest = Heaviest(self.folder)
        for batch in islice(batches, self.loader.steps - done):
            self.skipped.update(batch.skipped)
            lr = self.learner.lr
            due = (self.step + 1) % self.config.log_every == 0 or self.step + 1 == steps
            update = self.learner.update(batch.to(self.fabric.device), steering=due)
            self.step += 1
            if due:
                self._report(log, heaviest, update, epoch, lr)
            elif log is not None:
                log.advance(self.step)
            if self._stopped(stop) or self.step >= steps:
                return
            if self.step % self.config.checkpoint_every == 0:
                self.save()

    def _report(
        self, log: RunLog | None, heaviest: Heaviest, update: Update, epoch: int, lr: float
    ) -> None:
        out = update.out
        # What open_clip's losses return is of this rank's pairs.
        objective = torch.stack(self.ranks.gather(out.objective)).mean()
        self.objective, self.tau = float(objective), _number(out.tau)
        self.rounding.look(self.tau)
        if not math.isfinite(self.objective):
            raise TrainingError(
                f"step {self.step}: the objective is {self.objective}; "
                "a lower optimizer.lr or a longer optimizer.warmup may help"
            )
        if log is None:
            return
        if out.steering is not None:
            log.show(self.step, heaviest.add(out.steering, update.batch))
            heaviest.write()
        log.advance(self.step)
        record = LogRecord(
            step=self.step,
            epoch=epoch,
            lr=lr,
            objective=self.objective,
            tau=self.tau,
            tau_text=_number(out.tau_text),
            gamma=out.gamma,
            accuracy=_number(out.accuracy),
            gradient_norm=float(update.gradient_norm),
            skipped=self.skipped.total(),
            **({} if out.steering is None else diagnostics.numbers(out.steering)),
        )
        log.write(record, self.config.batch_size)

    def _log(self, steps: int) -> AbstractContextManager[RunLog | None]:
        """The log, on rank 0."""
        if not self.fabric.is_global_zero:
            return nullcontext()
        return RunLog(self.folder, self.config.loggers, step=self.step, steps=steps)

    def _stopped(self, stop: Stop) -> int:
        """The signal that any rank has got: all of them stop after the same step."""
        if self.fabric.world_size == 1:
            return stop.signal
        told = torch.tensor(stop.signal, device=self.fabric.device)
        return max(int(each) for each in self.ranks.gather(told))

    def _write_deltas(self) -> None:
        found, keys = self.learner.objective.deltas(), self.pairs.keys()
        if found is None or keys is None:
            return
        whole = len(found[0]) == self.pairs.n  # and not a share
        mine = None if whole and not self.fabric.is_global_zero else found
        parts = [part for part in self.ranks.gather_objects(mine) if part is not None]
        if self.fabric.is_global_zero:
            write_deltas(str(self.folder.deltas), keys, parts)

    def _export(self) -> None:
        self.learner.set_temperature(self.tau)
        folders = self.folder.model, self.folder.average
        for module, folder in zip(self.learner.modules(), folders, strict=False):
            self.learner.model.with_module(module).export(folder)

    def save(self) -> None:
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        file = self.checkpoints.save_rows(self.step, self.learner.rows(), rank, world_size)
        own = {"data": self.loader.state_dict(), "random": checkpoint.random_state()}
        # Gathered once all ranks have written their rows.
        ranks, files = zip(*self.ranks.gather_objects((own, file)), strict=True)
        if self.fabric.is_global_zero:
            state = {
                "settings": self._fixed_settings(),
                "pairs": self.pairs.identity,
                "step": self.step,
                "objective": self.objective,
                "tau": self.tau,
                "skipped": dict(self.skipped),
                "ranks": list(ranks),
                "learner": self.learner.state_dict(),
            }
            self.checkpoints.save(self.step, state, [name for name in files if name])
        self.fabric.barrier()

    def restore(self) -> None:
        state, rows = self.checkpoints.load()
        ours, theirs = self._fixed_settings(), state["settings"]
        differing = [name for name in ours if ours[name] != theirs.get(name)]
        if differing:
            raise TrainingError(
                f"{self.folder.path} holds a run with other settings for {', '.join(differing)}; "
                "resume it with its own, or choose another output"
            )
        if state["pairs"] != self.pairs.identity:
            raise TrainingError(
                f"{self.folder.path} holds a run on other pairs: the dataset, the cache or the "
                "losses have changed"
            )
        self.step, self.objective, self.tau = state["step"], state["objective"], state["tau"]
        self.skipped = Counter(state["skipped"])
        self.learner.load_state_dict(state["learner"], rows)
        if len(state["ranks"]) == self.fabric.world_size:
            own = state["ranks"][self.fabric.global_rank]
            self.loader.load_state_dict(own["data"])
            checkpoint.restore_random_state(own["random"])
        else:  # other ranks have other shares: each goes on as far into its own
            epoch, self.passed_over = divmod(self.step, self.loader.steps)
            self.loader.start_at(epoch)

    def _fixed_settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json", exclude=_FREE)


def _number(value: Tensor | None) -> float | None:
    return None if value is None else float(value)
