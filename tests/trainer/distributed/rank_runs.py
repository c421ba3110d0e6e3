"""Runs through the whole loop on several ranks: ``rank_runs.py RANK STORE``.

test_sharded_runs.py starts it, with [world size, settings of the runs] of each turn in STORE.json.
A rank has a part in the turns whose world size is above it.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from rhocache_trainer import TrainConfig, train


def main() -> None:
    rank, store = int(sys.argv[1]), sys.argv[2]
    for world_size, runs in json.loads(Path(f"{store}.json").read_text()):
        if rank >= world_size:
            continue
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            os.environ[name] = str(world_size)
        for name in ("RANK", "LOCAL_RANK"):
            os.environ[name] = str(rank)
        met = f"file://{store}-{world_size}"
        dist.init_process_group("gloo", met, rank=rank, world_size=world_size)
        for settings in runs:
            train(TrainConfig.model_validate(settings), resume="auto")
        dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
