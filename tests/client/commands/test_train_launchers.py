"""``rhocache train`` on two processes, by torchrun and by Ray Train, against one.

A batch holds all pairs, so that it is the same one however many processes share it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import chdir
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from torch.testing import assert_close
from typer.testing import CliRunner

from rhocache.cli import app
from rhocache_schemas.errors import InvalidInput, TrainingError
from rhocache_trainer import load_config, train

from ...trainer.conftest import PAIRS, SHARDS, make_pairs, write_cache, write_tar

STEPS = 6
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {
        "context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
    },
}  # fmt: skip
TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
    "-m", "rhocache", "train",
]  # fmt: skip

ON_RAY = ["--launcher", "ray", "--processes", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run; their config has relative paths."""
    folder = tmp_path_factory.mktemp("launchers")
    for shard in range(SHARDS):
        write_tar(folder / "dataset" / f"{shard:05}.tar", make_pairs(shard))
    write_cache(folder / "cache")
    config = {
        "output": "alone",
        "data": {"dataset": "dataset", "threads": 1},
        "cache": "cache",
        "model": MODEL,
        "objective": {"name": "drrho", "rho": 1.0, "tau_lr": 1e-2},
        "batch_size": SHARDS * PAIRS,
        "epochs": STEPS,
        "log_every": 1,
        "device": "cpu",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def start(command: list[str], folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, "config.yaml", *arguments, "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def torchrun(folder: Path, *arguments: str) -> dict[str, Any]:
    process = start(TORCHRUN, folder, *arguments)
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return json.loads(out)  # of one rank alone


def here(folder: Path, *changes: str, **options: Any) -> dict[str, Any]:
    """In this process, which is there already."""
    with chdir(folder):
        return asdict(train(load_config("config.yaml", changes), **options))


def check_equal(folder: Path, result: dict[str, Any], expected: dict[str, Any]) -> None:
    assert result["steps"] == expected["steps"]
    assert result["objective"] == pytest.approx(expected["objective"], abs=1e-5)
    assert result["tau"] == pytest.approx(expected["tau"], abs=1e-5)
    ours, theirs = (
        load_file(folder / each["model"] / "open_clip_model.safetensors")
        for each in (result, expected)
    )
    assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    return here(folder)


def test_torchrun_trains_as_one_process_does(folder: Path, alone: dict[str, Any]) -> None:
    result = torchrun(folder, "output=torchrun")
    assert result["pairs"] == alone["pairs"]
    check_equal(folder, result, alone)


@pytest.mark.parametrize("risk", ["{name: kl_ball, rho: 2, form: learned}", "null"])
def test_a_classifiers_risk_is_of_all_processes(folder: Path, risk: str) -> None:
    """Its state too: a batch here is the dataset, and half of one would not be."""
    name = f"classified-{len(risk)}"
    changes = [f"objective={{name: classify, risk: {risk}}}", "cache=null"]
    changes += ["data.caption_field=colour", "model.text_cfg=null"]
    expected = here(folder, f"output={name}", *changes)
    result = torchrun(folder, f"output={name}-two", *changes)
    assert result["steps"] == expected["steps"] == STEPS
    logs = [
        list(map(json.loads, (folder / each["output"] / "log.jsonl").read_text().splitlines()))
        for each in (result, expected)
    ]
    for number in ("objective", "accuracy"):
        ours, theirs = ([record[number] for record in log] for log in logs)
        assert ours == pytest.approx(theirs, abs=1e-5)
    ours, theirs = (
        load_file(folder / each["model"] / "classifier.safetensors") for each in (result, expected)
    )
    assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_run_goes_on_with_another_number_of_processes(
    folder: Path, alone: dict[str, Any]
) -> None:
    here(folder, "output=changed", "max_steps=2")
    torchrun(folder, "output=changed", "max_steps=4", "--resume", "auto")
    check_equal(folder, here(folder, "output=changed", resume="auto"), alone)


def test_machines_with_different_numbers_of_processes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InvalidInput, match="2 of 3 processes are on this machine"):
        here(folder, "output=uneven")


def ranks(torchrun: int) -> list[int]:
    """The processes that it has started."""
    return [
        int(child)
        for task in Path(f"/proc/{torchrun}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def started(command: list[str], folder: Path, output: str, *arguments: str) -> subprocess.Popen:
    """A run of many steps that has made the first."""
    process = start(command, folder, f"output={output}", "epochs=300", *arguments)
    log = folder / output / "log.jsonl"
    while not log.exists() or not log.read_text():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    return process


def check_stopped(process: subprocess.Popen, folder: Path, output: str, *settings: str) -> None:
    """One process tells that the run was saved, and here it goes on from there."""
    out, errors = process.communicate()
    assert out, errors
    result = json.loads(out)
    assert result["stopped"], errors
    assert 0 < result["steps"] < 300
    assert errors.count(f"saved at step {result['steps']}") == 1
    changes = [f"output={output}", "epochs=300", *settings, f"max_steps={result['steps'] + 2}"]
    again = here(folder, *changes, resume="auto")
    assert (again["steps"], again["stopped"]) == (result["steps"] + 2, False)


def test_sigterm_to_one_rank(folder: Path) -> None:
    process = started(TORCHRUN, folder, "stopped-rank")
    os.kill(ranks(process.pid)[-1], signal.SIGTERM)
    check_stopped(process, folder, "stopped-rank")
    assert process.returncode == 0


def test_sigterm_to_torchrun_and_so_to_everything_that_ranks_have_started(folder: Path) -> None:
    process = started(TORCHRUN, folder, "stopped-all", "data.workers=1")
    process.terminate()
    check_stopped(process, folder, "stopped-all", "data.workers=1")


def test_sigterm_to_the_command_that_has_started_ray(folder: Path, ray_address: str) -> None:
    command = [sys.executable, "-m", "rhocache", "train", *ON_RAY, "--ray-address", ray_address]
    process = started(command, folder, "stopped-ray")
    process.terminate()
    check_stopped(process, folder, "stopped-ray")
    assert process.returncode == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's, of itself
def test_ray_trains_as_one_process_does(
    folder: Path, alone: dict[str, Any], ray_address: str
) -> None:
    command = ["train", *ON_RAY, "config.yaml", "output=ray"]
    with chdir(folder):
        done = CliRunner().invoke(app, [*command, "--json"])
        again = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    check_equal(folder, json.loads(done.stdout), alone)
    assert isinstance(again.exception, TrainingError)
    assert "ray already holds a run" in str(again.exception)
