"""What a run tells while it goes on: JSON lines, TensorBoard, and the terminal."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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
from torch.utils.tensorboard import SummaryWriter

from rhocache_schemas.text import printable
from rhocache_trainer.training.hard_negatives import HeavyPair

LOG = "log.jsonl"
_SHOWN = 4  # of the heaviest pairs, to TensorBoard


class RunLog:
    """Writes a step's numbers to ``log.jsonl`` and to TensorBoard, and shows them.

    A run that goes on after ``step`` first drops what was logged later than that.
    """

    def __init__(self, folder: Path, *, name: str, step: int, steps: int) -> None:
        path = folder / LOG
        kept = _up_to(path, step)
        self._file = path.open("w", buffering=1)
        self._file.writelines(kept)
        self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
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
            printable(name), completed=step, total=steps, rate=0.0, state="", start=True
        )
        self._name = printable(name)
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
        self._board.close()
        self._file.close()

    def advance(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def show(self, step: int, pairs: list[tuple[HeavyPair, Tensor]]) -> None:
        """Show the pairs that weighed most, with what the model was shown of them."""
        for place, (pair, image) in enumerate(pairs[:_SHOWN]):
            self._board.add_image(f"heaviest/{place}", image, step)
            told = f"{pair.weight:.2f} times the mean weight: {printable(pair.caption)}"
            self._board.add_text(f"heaviest/{place}", told, step)

    def write(self, step: int, batch_size: int, values: dict[str, Any]) -> None:
        """Write numbers by name; ``objective`` and ``tau`` are among them."""
        now = time.monotonic()
        rate = (step - self._written_step) * batch_size / (now - self._written_at)
        self._written_step, self._written_at = step, now
        values = {**values, "pairs_per_second": rate}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"train/{name}", value, step)
        state = f"objective {values['objective']:.4f}  τ {values['tau']:.4f}"
        self._progress.update(self._task, rate=rate, state=state)
        if not self._console.is_terminal:
            line = f"{self._name}: step {step}/{self._steps}  {state}  {rate:.0f} pairs/s"
            self._console.print(line, highlight=False, markup=False)


def _up_to(path: Path, step: int) -> list[str]:
    if not path.exists() or step == 0:
        return []
    # A crash may have cut the last line short.
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if json.loads(line)["step"] <= step]
