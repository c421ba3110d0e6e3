"""Where a run's numbers go beside its log: TensorBoard, CSV, Weights & Biases, MLflow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from lightning_fabric.loggers.logger import Logger
from pydantic import BeforeValidator, Field

from rhocache_schemas.documents import Strict
from rhocache_schemas.errors import InvalidInput, MissingExtra
from rhocache_trainer.run_folder import RunFolder
from rhocache_trainer.settings import spelled_out


@dataclass(frozen=True, slots=True)
class _Kind:
    module: str
    name: str  # of the class in it
    packages: dict[str, str] = field(default_factory=dict[str, str])  # import name -> pip's name


_LIGHTNING = {"pytorch_lightning": "pytorch-lightning"}
_KINDS = {
    "tensorboard": _Kind(
        "lightning_fabric.loggers", "TensorBoardLogger", {"tensorboard": "tensorboard"}
    ),
    "csv": _Kind("lightning_fabric.loggers", "CSVLogger"),
    "wandb": _Kind("pytorch_lightning.loggers", "WandbLogger", {"wandb": "wandb"} | _LIGHTNING),
    "mlflow": _Kind("pytorch_lightning.loggers", "MLFlowLogger", {"mlflow": "mlflow"} | _LIGHTNING),
}


class LoggerConfig(Strict):
    name: Literal["tensorboard", "csv", "wandb", "mlflow"]
    options: Annotated[
        dict[str, Any],
        Field(description="arguments of Lightning's logger of that name, such as project"),
    ] = Field(default_factory=dict)


Loggers = Annotated[
    tuple[Annotated[LoggerConfig, BeforeValidator(spelled_out)], ...],
    Field(description="where numbers go beside log.jsonl; a name, or {name, options}"),
]


def check_loggers(configs: Sequence[LoggerConfig]) -> None:
    """Raises MissingExtra for a logger whose package is not installed."""
    for config in configs:
        needed = _KINDS[config.name].packages
        lacking = [package for module, package in needed.items() if find_spec(module) is None]
        if lacking:
            raise MissingExtra(
                f"loggers: {config.name} needs what is not installed: "
                f"pip install {' '.join(lacking)}"
            )


def open_loggers(
    configs: Sequence[LoggerConfig], folder: RunFolder, *, name: str, step: int
) -> list[Logger]:
    """Open the loggers of a run that goes on after ``step``, or begins after 0.

    TensorBoard drops what was logged later; a CSV begins anew, for it can't. Raises InvalidInput
    where a logger does not take its options, or can't reach what it logs to.
    """
    return [_open(config, folder, name, step) for config in configs]


def _open(config: LoggerConfig, folder: RunFolder, name: str, step: int) -> Logger:
    here: dict[str, Any] = {"name": "", "version": ""}  # not in folders of these names
    usual: dict[str, dict[str, Any]] = {
        "tensorboard": {**here, "root_dir": folder.tensorboard, "purge_step": step + 1},
        "csv": {**here, "root_dir": folder.csv.parent, "flush_logs_every_n_steps": 1},
        "wandb": {"name": name, "save_dir": folder.path},
        "mlflow": {"run_name": name},
    }
    kind = _KINDS[config.name]
    if config.name == "csv":
        folder.csv.unlink(missing_ok=True)  # which would be warned of
    try:
        logger = getattr(import_module(kind.module), kind.name)(
            **usual[config.name] | config.options
        )
        _ = logger.experiment  # opened now, and not at the first number
    except Exception as error:  # each has its own
        why = " ".join(str(error).split())
        raise InvalidInput(f"loggers: {config.name} can't be opened: {why}") from error
    return logger
