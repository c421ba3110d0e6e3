"""The processes of a run: one, or those that torchrun (or Ray Train) has started."""

import os
from typing import Any, Literal

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from rhocache_schemas.errors import InvalidInput

_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed"}


def launch(device: str, precision: Literal["fp32", "bf16"]) -> Fabric:
    """Join the other processes, where the environment says that there are some.

    What is read of the environment: RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and
    MASTER_PORT, as torchrun sets them. A process group that is there already is kept.

    Raises InvalidInput where machines have different numbers of processes, and where Slurm has
    started several that know nothing of each other: each would train by itself.
    """
    world_size = int(os.environ.get("WORLD_SIZE") or 1)
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1)
    if tasks > 1 and "WORLD_SIZE" not in os.environ:
        raise InvalidInput(
            f"srun has started {tasks} processes, and WORLD_SIZE is not set: have it start one a "
            "node, and in that `torchrun --nnodes ... --nproc-per-node ... -m rhocache train ...`"
        )
    if world_size == 1:
        return Fabric(
            accelerator=device,
            devices=1,
            precision=_PRECISION[precision],
            plugins=LightningEnvironment(),  # else a Slurm or MPI around the process is one too
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or world_size)
    if world_size % here:
        raise InvalidInput(
            f"{here} of {world_size} processes are on this machine; all machines need equally many"
        )
    fabric = Fabric(
        accelerator=device,
        devices=here,
        num_nodes=world_size // here,
        strategy="ddp",
        precision=_PRECISION[precision],
        plugins=TorchElasticEnvironment(),
    )
    fabric.launch()
    return fabric
