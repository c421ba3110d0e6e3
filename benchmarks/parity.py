"""How far a training from a cache is from the same training with the reference at work.

``python -m benchmarks.parity`` prints it, as Markdown: 24 steps on pairs with three views and up
to three captions, which training replays, once from a cache of each dtype, and once with the
reference run on the very pictures and texts of each batch.
"""

import json
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np

from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import Dtype
from rhocache_trainer import load_config, train
from rhocache_workers.run.driver import score
from tests.live_reference import RUN, Live, job, make_reference, recaption, steps


def main() -> None:
    print("| dtype | objective: largest difference | gradient norm: largest, relative | τ |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_reference(folder / "reference")
        recaption(folder / "data" / "00000.tar")
        for dtype in get_args(Dtype):
            cached, live = compare(folder, dtype)
            objective, tau, norm = (
                np.abs(cached[each] - live[each]) for each in ("objective", "tau", "gradient_norm")
            )
            relative = (norm / live["gradient_norm"]).max()
            print(f"| {dtype} | {objective.max():.1e} | {relative:.1e} | {tau.max():.1e} |")


def compare(folder: Path, dtype: Dtype) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the steps of both trainings say of themselves."""
    data, cache = folder / "data", folder / dtype
    read = {"dataset": str(data), "caption_field": "texts", "captions": 3}
    asked = job(folder / "reference") | read | {"output": str(cache), "dtype": dtype}
    score(ScoreSpec.model_validate(asked), here=True)
    run = folder / f"{dtype}.yaml"
    run.write_text(
        json.dumps(
            RUN
            | {
                "data": RUN["data"] | read,
                "cache": str(cache),
                "output": str(folder / f"{dtype}-run"),
            }
        )
    )
    train(load_config(run))
    with Live(folder / "reference").at_work():
        train(load_config(run, [f"output={folder / dtype}-live"]))
    return steps(folder / f"{dtype}-run"), steps(folder / f"{dtype}-live")


if __name__ == "__main__":
    main()
