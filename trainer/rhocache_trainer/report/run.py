"""What a report shows of a run: its numbers as columns, its settings as text, small pictures."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.errors import InvalidInput, RowError
from rhocache_trainer.evaluation import EvaluationResult
from rhocache_trainer.run_folder import HeavyPair, LogRecord, RunFolder

_PICTURE = (320, 320)  # the largest that a report holds


@dataclass(frozen=True, slots=True)
class Run:
    folder: Path
    steps: npt.NDArray[np.int64]  # [n], those that were logged
    values: dict[str, npt.NDArray[np.float64]]  # of a LogRecord's numbers, [n], NaN for none
    settings: dict[str, str]  # dotted name -> value
    heaviest: list[tuple[HeavyPair, str | None]]  # each with its picture as a data URI
    evaluation: EvaluationResult | None

    def last(self, name: str) -> float | None:
        """The newest value of that name."""
        known = self.values[name][~np.isnan(self.values[name])]
        return float(known[-1]) if len(known) else None


def read_run(path: Path) -> Run:
    """Read what there is; only the log must be there.

    Raises InvalidInput when there is no log or no step in it, InvalidDocument for a file that is
    not what its name says.
    """
    folder = RunFolder(path)
    if not folder.log.is_file():
        raise InvalidInput(f"{path} is no folder of a training run: it has no {folder.log.name}")
    records = folder.read_log()
    if not records:
        raise InvalidInput(f"{folder.log} has no steps yet")
    evaluation = folder.evaluation
    return Run(
        path,
        np.array([record.step for record in records], dtype=np.int64),
        {
            name: np.array([getattr(record, name) for record in records], dtype=np.float64)
            for name in LogRecord.model_fields
        },
        dict(_flat(folder.read_config())),
        [
            (pair, _picture(folder.pictures / pair.picture) if pair.picture else None)
            for pair in folder.read_heaviest()
        ],
        EvaluationResult.parse(evaluation.read_bytes(), str(evaluation))
        if evaluation.exists()
        else None,
    )


def _flat(settings: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "" if value is None else str(value)


def _picture(path: Path) -> str | None:
    """A small copy as a data URI, or None when the file is gone or is no picture."""
    try:
        image = open_image(path.read_bytes()).convert("RGBA")
    except (OSError, RowError):
        return None
    image.thumbnail(_PICTURE)
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    buffer = io.BytesIO()
    page.convert("RGB").save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
