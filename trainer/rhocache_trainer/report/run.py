"""Reading a run's folder: its log, settings, heaviest pairs and evaluation."""

import base64
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.documents import describe
from rhocache_schemas.errors import InvalidDocument, InvalidInput, RowError
from rhocache_trainer.evaluation import EvaluationResult

LOG = "log.jsonl"
CONFIG = "config.yaml"
HEAVIEST = "heaviest"  # .json, and a folder of pictures
EVALUATION = "evaluation.json"

_PICTURE = (320, 320)  # the largest that a report holds


class HeaviestPair(BaseModel):
    """An entry of ``heaviest.json``: a pair of large weight."""

    model_config = ConfigDict(frozen=True)

    shard: str
    key: str
    caption: str
    weight: float
    picture: str | None = None  # a file's name in the folder ``heaviest``


@dataclass(frozen=True, slots=True)
class Run:
    folder: Path
    steps: npt.NDArray[np.int64]  # [n], those that were logged
    values: dict[str, npt.NDArray[np.float64]]  # name -> [n], NaN where a step has none
    settings: dict[str, str]  # dotted name -> value
    heaviest: list[tuple[HeaviestPair, str | None]]  # each with its picture as a data URI
    evaluation: EvaluationResult | None

    def last(self, name: str) -> float | None:
        """The newest value of that name."""
        values = self.values.get(name, np.empty(0))
        known = values[~np.isnan(values)]
        return float(known[-1]) if len(known) else None


def read_run(folder: Path) -> Run:
    """Read what there is; only the log must be there.

    Raises InvalidInput when there is no log or no step in it, InvalidDocument for a file that is
    not what its name says.
    """
    records = _read_log(folder)
    steps = np.array([record["step"] for record in records], dtype=np.int64)
    names = dict.fromkeys(name for record in records for name in record if name != "step")
    values = {
        name: np.array([record.get(name, math.nan) for record in records], dtype=np.float64)
        for name in names
    }
    evaluation = folder / EVALUATION
    return Run(
        folder,
        steps,
        values,
        _read_settings(folder / CONFIG),
        _read_heaviest(folder),
        EvaluationResult.parse(evaluation.read_bytes(), str(evaluation))
        if evaluation.exists()
        else None,
    )


def _read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log, their numbers only."""
    path = folder / LOG
    if not path.is_file():
        raise InvalidInput(f"{folder} is no folder of a training run: it has no {LOG}")
    # What follows the last line break was cut short, or is still being written.
    *lines, _ = path.read_text(errors="replace").split("\n")
    if not lines:
        raise InvalidInput(f"{path} has no steps yet")
    return [_record(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        raise InvalidDocument(f"{where} is no training log's: it lacks a whole number 'step'")
    return {name: value for name, value in record.items() if type(value) in (int, float)}


def _read_settings(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidDocument(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InvalidDocument(f"{path} holds no mapping of settings")
    return dict(_flat(content))


def _flat(settings: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "" if value is None else str(value)


def _read_heaviest(folder: Path) -> list[tuple[HeaviestPair, str | None]]:
    path = folder / f"{HEAVIEST}.json"
    if not path.exists():
        return []
    try:
        pairs = TypeAdapter(list[HeaviestPair]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise InvalidDocument(f"{path}: {describe(error)}") from error
    for pair in pairs:
        # A report may be passed on: nothing but the run's own pictures goes into it.
        if pair.picture is not None and Path(pair.picture).name != pair.picture:
            raise InvalidDocument(f"{path}: picture {pair.picture!r} is not a plain file name")
    return [
        (pair, _picture(folder / HEAVIEST / pair.picture) if pair.picture else None)
        for pair in pairs
    ]


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
