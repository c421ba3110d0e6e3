"""Checkpoints: files that each hold all of a run's state, of which the last few are kept."""

import io
import logging
from pathlib import Path
from typing import Any

import torch

from rhocache_schemas import storage
from rhocache_schemas.errors import TrainingError
from rhocache_schemas.weights.state_dict import without_advice

FORMAT = 2

log = logging.getLogger(__name__)


class Checkpoints:
    """``step-00000100.pt`` and so on, in a folder of their own."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def exist(self) -> bool:
        return bool(self._paths())

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write tensors, numbers and strings, nested in dicts and lists: all of it or nothing."""
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, **state}, buffer)
        self._folder.mkdir(parents=True, exist_ok=True)
        storage.write_atomic(str(self._folder / f"step-{step:08}.pt"), buffer.getvalue())
        for old in self._paths()[: -self._keep]:
            old.unlink()

    def load(self) -> dict[str, Any]:
        """Read the newest, or where it is damaged the one before; on the CPU, never a pickle.

        Raises TrainingError when none can be read.
        """
        errors: list[TrainingError] = []
        for path in reversed(self._paths()):
            try:
                return _load(path)
            except TrainingError as error:
                log.warning("%s", error)
                errors.append(error)
        raise errors[0]

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("step-*.pt"))


def _load(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever a damaged archive leads it to
        raise TrainingError(
            f"{path} is not a readable checkpoint: {without_advice(error)}"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(f"{path} is not a checkpoint of format {FORMAT}")
    return state


def random_state() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    torch.cuda.set_rng_state_all(state["cuda"])
