"""Checkpoints: files that together hold all of a run's state, of which the last few are kept."""

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rhocache_schemas import storage
from rhocache_schemas.errors import TrainingError
from rhocache_schemas.weights.state_dict import without_advice

FORMAT = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of some of the pairs, in tables that have one for each."""

    pairs: range
    tables: dict[str, Tensor]  # by name, [len(pairs)]

    def fill(self, parts: list["Rows"]) -> None:
        """Copy what is in ``parts``, by however many ranks they were saved, into these tables."""
        for part in parts:
            start = max(self.pairs.start, part.pairs.start)
            stop = min(self.pairs.stop, part.pairs.stop)
            if start >= stop:
                continue
            ours, theirs = (
                slice(start - pairs.start, stop - pairs.start) for pairs in (self.pairs, part.pairs)
            )
            for name, table in self.tables.items():
                table[ours].copy_(part.tables[name][theirs])


class Checkpoints:
    """``step-00000100.pt`` and so on, in a folder of their own.

    Tables of all pairs are beside it, in ``step-00000100.0-of-4.rows`` by the rank that had these
    rows, so that no process needs memory for more than its own.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def exist(self) -> bool:
        return bool(self._paths())

    def save_rows(self, step: int, rows: Rows, rank: int, world_size: int) -> str | None:
        """Write this rank's rows, and return the file's name; None for rows that rank 0 has too."""
        if not rows.tables or (rank and not rows.pairs.start):
            return None
        name = f"{_stem(step)}.{rank}-of-{world_size}.rows"
        tables = {name: table.cpu() for name, table in rows.tables.items()}
        saved = {"format": FORMAT, "pairs": [rows.pairs.start, rows.pairs.stop], "tables": tables}
        with storage.AtomicFile(str(self._folder / name)) as file:
            torch.save(saved, file)  # pyright: ignore[reportArgumentType] (it writes and flushes)
            file.commit()
        return name

    def save(self, step: int, state: dict[str, Any], rows: list[str]) -> None:
        """Write tensors, numbers and strings, nested in dicts and lists: all of it or nothing.

        ``rows`` are the names of the files that ``save_rows`` has written, on all ranks.
        """
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "rows": rows, **state}, buffer)
        self._folder.mkdir(parents=True, exist_ok=True)
        storage.write_atomic(str(self._folder / f"{_stem(step)}.pt"), buffer.getvalue())
        for old in self._paths()[: -self._keep]:
            old.unlink()
        kept = {path.stem for path in self._paths()}
        for file in self._folder.glob("step-*.rows"):
            if file.name.partition(".")[0] not in kept:
                file.unlink()

    def load(self) -> tuple[dict[str, Any], list[Rows]]:
        """Read the newest, or where it is damaged the one before; on the CPU, never a pickle.

        The rows are read when they are copied. Raises TrainingError when none can be read.
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


def _stem(step: int) -> str:
    return f"step-{step:08}"


def _load(path: Path) -> tuple[dict[str, Any], list[Rows]]:
    state = _read(path)
    files = [_read(path.parent / name, mmap=True) for name in state["rows"]]
    return state, [Rows(range(*file["pairs"]), file["tables"]) for file in files]


def _read(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
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
