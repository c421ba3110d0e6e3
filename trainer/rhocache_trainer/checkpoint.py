"""One file that holds all of a run's state."""

import io
from pathlib import Path
from typing import Any

import torch

from rhocache_schemas import storage
from rhocache_schemas.errors import TrainingError

FORMAT = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and strings, nested in dicts and lists: all of it or nothing."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    storage.write_atomic(str(path), buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Read what ``save`` wrote, on the CPU; never a pickled object.

    Raises TrainingError when it is damaged or of another version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever a damaged archive leads it to
        raise TrainingError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(f"{path} is not a checkpoint of format {FORMAT}")
    return state


def random_state() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    torch.cuda.set_rng_state_all(state["cuda"])
