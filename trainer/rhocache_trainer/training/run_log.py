"""Logs the steps of a run: to ``log.jsonl``, to the loggers of its settings and to the terminal."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from rhocache_schemas.text import printable
from rhocache_trainer.run_folder import HeavyPair, LogRecord, RunFolder
from rhocache_trainer.training.loggers import LoggerConfig, open_loggers

_SHOWN = 4  # of the heaviest pairs, to TensorBoard


class RunLog:
    """Writes a step's numbers to ``log.jsonl`` and to the loggers, and shows them.

    A run that goes on after ``step`` first drops what was logged later than that.
    """

    def __init__(
        self, folder: RunFolder, loggers: Sequence[LoggerConfig], *, step: int, steps: int
    ) -> None:
        name = printable(folder.path.name)
        kept = [record for record in folder.read_log() if record.step <= step]
        self._loggers = open_loggers(loggers, folder, name=name, step=step)
        for logger in self._loggers:
            if isinstance(logger, CSVLogger):  # which began anew
                for record in kept:
                    _tell(logger, record)
        self._file = folder.log.open("w", buffering=1)
        self._file.writelines(record.line() for record in kept)
        self._console = Console(stderr=True)
        self._steps = steps
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f} pairs/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(
            name, completed=step, total=steps, rate=0.0, state="", start=True
        )
        self._name = name
        self._written_step, self._written_at = step, time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
        for logger in self._loggers:
            logger.finalize("success" if error is None else "failed")
        self._file.close()

    def advance(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def show(self, step: int, pairs: list[tuple[HeavyPair, Tensor | None]]) -> None:
        """Show the pairs that weighed most, with what the model was shown of them."""
        for logger in self._loggers:
            if not isinstance(logger, TensorBoardLogger):
                continue
            for place, (pair, image) in enumerate(pairs[:_SHOWN]):
                if image is not None:
                    logger.experiment.add_image(f"heaviest/{place}", image, step)
                told = f"{pair.weight:.2f} times the mean weight: {printable(pair.caption)}"
                logger.experiment.add_text(f"heaviest/{place}", told, step)

    def write(self, record: LogRecord, pairs: int) -> None:
        """Write a step's record; the speed is that of ``pairs`` a step since the last one."""
        now = time.monotonic()
        rate = (record.step - self._written_step) * pairs / (now - self._written_at)
        self._written_step, self._written_at = record.step, now
        record = record.model_copy(update={"pairs_per_second": rate})
        self._file.write(record.line())
        for logger in self._loggers:
            _tell(logger, record)
        told = ("objective", record.objective), ("τ", record.tau), ("accuracy", record.accuracy)
        state = "  ".join(f"{name} {value:.4f}" for name, value in told if value is not None)
        self._progress.update(self._task, rate=rate, state=state)
        if not self._console.is_terminal:
            line = f"{self._name}: step {record.step}/{self._steps}  {state}  {rate:.0f} pairs/s"
            self._console.print(line, highlight=False, markup=False)


def _tell(logger: Logger, record: LogRecord) -> None:
    numbers = {f"train/{name}": value for name, value in record.numbers().items()}
    logger.log_metrics(numbers, record.step)
