"""How many processes a run has: what torchrun says, and nothing else."""

from pathlib import Path

import pytest

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.distributed.launch import launch


@pytest.mark.parametrize("inside", [False, True])
def test_slurm_around_a_run_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    """On a login node, and in a job of four tasks on two nodes, of which it is told nothing."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    if inside:
        for name, value in {
            "JOB_ID": "7", "JOB_NAME": "training", "NTASKS": "4", "NNODES": "2", "PROCID": "3",
            "LOCALID": "1", "NODEID": "1", "NODELIST": "n[1-2]", "STEP_ID": "0",
        }.items():  # fmt: skip
            monkeypatch.setenv(f"SLURM_{name}", value)
    fabric = launch("cpu", "fp32")
    assert (fabric.world_size, fabric.global_rank) == (1, 0)


def test_processes_that_know_nothing_of_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(InvalidInput, match=r"srun has started 4 processes.*torchrun"):
        launch("cpu", "fp32")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launch("cpu", "fp32").world_size == 1
