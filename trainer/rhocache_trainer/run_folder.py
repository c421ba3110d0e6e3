"""The folder of a training run: its files, and the record that a line of its log is."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from rhocache_schemas import storage
from rhocache_schemas.documents import describe
from rhocache_schemas.errors import InvalidDocument


class LogRecord(BaseModel):
    """The numbers of one step. Those that an objective does not have are not in its log.

    Readers pass over numbers that they do not know, and what is not a number.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    step: int  # done, from the first of the run
    epoch: int | None = None  # from 0
    lr: float | None = None  # of the weights, at this step
    objective: float | None = None  # what is minimised
    tau: float | None = None  # (mean) temperature of images as anchors
    tau_text: float | None = None  # of texts
    gamma: float | None = None  # weight of a new estimate in the moving averages
    accuracy: float | None = None  # of a classifier, on the batch
    gradient_norm: float | None = None  # before clipping
    effective_sample_size: float | None = None  # what follows: see loss.diagnostics.Steering
    divergence: float | None = None
    log_u_mean: float | None = None
    delta_mean: float | None = None
    delta_p05: float | None = None
    delta_p50: float | None = None
    delta_p95: float | None = None
    skipped: int | None = None  # pairs left out, in this epoch so far
    pairs_per_second: float | None = None

    def numbers(self) -> dict[str, float]:
        """All that there are, by name, but for ``step``."""
        return self.model_dump(exclude={"step"}, exclude_none=True)

    def line(self) -> str:
        return json.dumps(self.model_dump(exclude_none=True)) + "\n"


class HeavyPair(BaseModel):
    """An entry of ``heaviest.json``: a pair that weighed much as a negative."""

    model_config = ConfigDict(frozen=True)

    shard: str
    key: str
    caption: str
    weight: float  # 1 is what uniform weights would give it
    picture: str | None = None  # a file's name in ``heaviest``, of what the model was shown


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run's files are. Readers need the log alone: a folder may be copied in part."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings, as YAML."""
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        """A ``LogRecord`` a line."""
        return self.path / "log.jsonl"

    @property
    def tensorboard(self) -> Path:
        """A folder of event files."""
        return self.path / "tensorboard"

    @property
    def csv(self) -> Path:
        return self.path / "csv" / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.path / "model"

    @property
    def average(self) -> Path:
        """The exported moving average of its weights."""
        return self.path / "model-ema"

    @property
    def heaviest(self) -> Path:
        """A list of ``HeavyPair``."""
        return self.path / "heaviest.json"

    @property
    def pictures(self) -> Path:
        """Of the pairs in ``heaviest``."""
        return self.path / "heaviest"

    @property
    def deltas(self) -> Path:
        """Parquet: what each pair loses more than its reference does."""
        return self.path / "deltas.parquet"

    @property
    def evaluation(self) -> Path:
        """The output of ``rhocache evaluate --json``, where somebody has put it."""
        return self.path / "evaluation.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def ray(self) -> Path:
        """What Ray Train notes of its own, where it has started the processes."""
        return self.path / "ray"

    def write_config(self, settings: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.config.write_text(yaml.safe_dump(settings, sort_keys=False))

    def read_config(self) -> dict[str, Any]:
        """Return the settings, none where there is no file. Raises InvalidDocument."""
        if not self.config.exists():
            return {}
        try:
            content = yaml.safe_load(self.config.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            why = " ".join(str(error).split())
            raise InvalidDocument(f"{self.config} is not YAML: {why}") from error
        if not isinstance(content, dict):
            raise InvalidDocument(f"{self.config} holds no mapping of settings")
        return content

    def read_log(self) -> list[LogRecord]:
        """Return the records of all whole lines, none where there is no log.

        What follows the last line break was cut short, or is still being written. Raises
        InvalidDocument for a line that is no record.
        """
        if not self.log.exists():
            return []
        *lines, _ = self.log.read_text(errors="replace").split("\n")
        return [_record(line, f"{self.log}, line {number}") for number, line in enumerate(lines, 1)]

    def write_heaviest(self, pairs: list[tuple[HeavyPair, bytes | None]]) -> None:
        """Write the pairs with their pictures, PNG, in place of those that were there."""
        self.pictures.mkdir(exist_ok=True)
        for pair, png in pairs:
            if png is None:
                continue
            storage.write_atomic(str(self.pictures / str(pair.picture)), png)
        listed = json.dumps([pair.model_dump() for pair, _ in pairs], indent=1)
        storage.write_atomic(str(self.heaviest), listed.encode())
        for old in self.pictures.glob("*.png"):
            if old.name not in {pair.picture for pair, _ in pairs}:
                old.unlink()

    def read_heaviest(self) -> list[HeavyPair]:
        """Return the pairs, none where there is no file. Raises InvalidDocument."""
        if not self.heaviest.exists():
            return []
        try:
            pairs = TypeAdapter(list[HeavyPair]).validate_json(self.heaviest.read_bytes())
        except ValidationError as error:
            raise InvalidDocument(f"{self.heaviest}: {describe(error)}") from error
        for pair in pairs:
            # A report may be passed on: nothing but the run's own pictures goes into it.
            if pair.picture is not None and Path(pair.picture).name != pair.picture:
                raise InvalidDocument(
                    f"{self.heaviest}: picture {pair.picture!r} is not a plain file name"
                )
        return pairs


def _record(line: str, where: str) -> LogRecord:
    try:
        content: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"{where} is not JSON: {error}") from error
    if not isinstance(content, dict) or type(content.get("step")) is not int:
        raise InvalidDocument(f"{where} is no training log's: it lacks a whole number 'step'")
    numbers = {name: value for name, value in content.items() if type(value) in (int, float)}
    try:
        return LogRecord.model_validate(numbers)
    except ValidationError as error:
        raise InvalidDocument(f"{where} is no training log's: {describe(error)}") from error
