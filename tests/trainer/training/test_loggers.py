"""Where a run's numbers go beside its log, as TensorBoard's and csv's own readers see them."""

import csv
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rhocache_schemas.errors import InvalidDocument, InvalidInput, MissingExtra
from rhocache_trainer import TrainConfig, load_config, train


def run(config: dict, resume: Any = "never", **changes: Any) -> Path:
    return Path(train(TrainConfig.model_validate(config | changes), resume=resume).output)


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def board_of(folder: Path) -> EventAccumulator:
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return board


def rows_of(folder: Path) -> list[dict[str, float]]:
    with (folder / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        {name.removeprefix("train/"): float(value) for name, value in row.items()} for row in rows
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's reader, of itself
def test_tensorboard_has_what_the_log_has_and_the_heaviest_pairs(config: dict, cache: Path):
    objective = {"name": "drrho", "rho": 1.0}
    folder = run(config, objective=objective, cache=str(cache), max_steps=3)
    board, log = board_of(folder), log_of(folder)
    for name in log[0].keys() - {"step"}:
        told = [(event.step, event.value) for event in board.Scalars(f"train/{name}")]
        assert told == [(record["step"], pytest.approx(record[name])) for record in log]
    assert {"train/gamma", "train/tau", "train/delta_p95"} <= set(board.Tags()["scalars"])
    assert "heaviest/0" in board.Tags()["images"]
    assert "heaviest/0/text_summary" in board.Tags()["tensors"]
    assert not (folder / "csv").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_that_goes_on_drops_what_was_logged_after_its_checkpoint(config: dict):
    """The CSV begins anew, and has the steps before as well."""
    settings = config | {"loggers": ["tensorboard", "csv"], "checkpoint_every": 2}
    folder = run(settings, max_steps=5)
    max(folder.glob("checkpoints/*.pt")).unlink()  # of step 5; that of step 4 was kept
    before = log_of(folder)[:4]
    assert [row["step"] for row in rows_of(folder)] == [1, 2, 3, 4, 5]
    # TensorBoard reads files by name, and the tenth of a process and second before the ninth.
    second = int(time.time())
    while int(time.time()) == second:
        time.sleep(0.01)
    run(settings, resume="auto", max_steps=7)
    log = log_of(folder)
    assert log[:4] == before
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5, 6, 7]
    assert rows_of(folder) == [pytest.approx(record) for record in log]
    told = board_of(folder).Scalars("train/objective")
    assert [(event.step, event.value) for event in told] == [
        (record["step"], pytest.approx(record["objective"])) for record in log
    ]


def test_no_logger_is_a_log_alone(config: dict):
    folder = run(config, loggers=[], max_steps=2)
    assert len(log_of(folder)) == 2
    assert not (folder / "tensorboard").exists()


def test_a_logger_takes_its_options(config: dict):
    logger = {"name": "csv", "options": {"prefix": "mine"}}
    folder = run(config, loggers=[logger], max_steps=1)
    header = (folder / "csv" / "metrics.csv").read_text().splitlines()[0]
    assert "mine-train/objective" in header.split(",")
    with pytest.raises(InvalidInput, match=r"loggers: csv can't be opened: .*'colour'"):
        run(config, loggers=[{"name": "csv", "options": {"colour": 1}}], output=f"{folder}-2")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_before_anything_is_read(
    config: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "rhocache_trainer.training.loggers.find_spec",
        lambda module: None if module in ("wandb", "mlflow") else found(module),
    )
    with pytest.raises(MissingExtra, match=rf"loggers: {name} needs .*: pip install {name}$"):
        run(config, loggers=[name], data={"dataset": "nowhere"})
    assert not (tmp_path / "run").exists()


def test_an_unknown_logger_is_named(config: dict, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    with pytest.raises(InvalidDocument, match=r"loggers\.0\.name: .*'tensorboard', 'csv'"):
        load_config(tmp_path / "config.yaml", ["loggers=[neptune]"])
