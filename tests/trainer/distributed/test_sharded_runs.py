"""Runs whose u is sharded against runs whose u is not, by two, four and one processes in turn."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer import TrainConfig, train

from ..conftest import PAIRS, SHARDS

PROGRAM = Path(__file__).with_name("rank_runs.py")
N = SHARDS * PAIRS
TURNS = [(2, 2), (4, 4), (1, 6)]  # processes, and the step that they go on to
# Whether u is sharded: never, always, and in turn.
LAYOUTS = {
    "whole": (False, False, False),
    "sharded": (True, True, True),
    "merged": (True, False, True),
    "split": (False, True, False),
}


def run(store: Path, turns: list[tuple[int, list[dict[str, Any]]]]) -> None:
    store.with_suffix(".json").write_text(json.dumps(turns))
    started = [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(rank), store], stderr=subprocess.PIPE, text=True
        )
        for rank in range(max(world_size for world_size, _ in turns))
    ]
    for process in started:
        _, told = process.communicate()
        assert process.returncode == 0, told


def checkpoint(folder: Path, step: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    saved = torch.load(folder / "checkpoints" / f"step-{step:08}.pt")
    return saved["learner"], [torch.load(folder / "checkpoints" / name) for name in saved["rows"]]


def joined(parts: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    tables = [part["tables"] for part in parts]
    return {name: torch.cat([each[name] for each in tables]) for name in tables[0]}


def test_a_run_is_the_same_to_the_bit_whoever_holds_u(
    config: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    steered = config | {"cache": str(cache), "batch_size": 12, "epochs": 3, "loggers": []}
    steered |= {"keep_checkpoints": len(TURNS)}
    drrho = {"name": "drrho", "rho": 1.0, "gamma": 0.5, "gamma_schedule": "constant"}
    turns = [
        (
            world_size,
            [
                steered
                | {"output": str(tmp_path / name), "max_steps": step}
                | {"objective": drrho | {"sharded": sharded[turn]}}
                for name, sharded in LAYOUTS.items()
            ],
        )
        for turn, (world_size, step) in enumerate(TURNS)
    ]
    run(tmp_path / "store", turns)
    exports = {
        name: (tmp_path / name / "model" / "open_clip_model.safetensors").read_bytes()
        for name in LAYOUTS
    }
    assert len(set(exports.values())) == 1
    for name, sharded in LAYOUTS.items():
        for turn, (world_size, step) in enumerate(TURNS):
            expected, (table,) = checkpoint(tmp_path / "whole", step)
            learner, parts = checkpoint(tmp_path / name, step)
            torch.testing.assert_close(learner, expected, rtol=0, atol=0)
            torch.testing.assert_close(joined(parts), table["tables"], rtol=0, atol=0)
            held = [len(range(*part["pairs"])) for part in parts]
            assert held == ([N // world_size] * world_size if sharded[turn] else [N])
    _, (last,) = checkpoint(tmp_path / "whole", 6)
    assert last["tables"]["loss.image_average.seen"].sum() > N // 2


@pytest.mark.parametrize("objective", [{"version": "v2"}, {"temperature": "individual"}])
def test_temperatures_of_each_pair_are_not_sharded(
    config: dict[str, Any], objective: dict[str, Any]
) -> None:
    settings = config | {"objective": {"name": "global", "sharded": True, **objective}}
    with pytest.raises(InvalidInput, match="sharded: temperature='individual' has temperatures of"):
        train(TrainConfig.model_validate(settings))
