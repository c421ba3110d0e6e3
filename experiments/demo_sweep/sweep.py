"""Train targets with many settings and note how each does on the validation shard.

    python experiments/demo_sweep/sweep.py WORK < trials.txt

A trial is a line: the name of a config in this folder and changes to it; those after
``reference:`` go to the reference that steers it. Trials run two at a time, on one thread each.
Results are appended to results.csv; a trial that is there is not run again. Training is on shards
00000-00001, validation on 00002; 00003, the demo's test shard, is never read.
"""

import csv
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DATASET = str(ROOT / "examples" / "openclipart")
RESULTS = HERE / "results.csv"
TRAINING, VALIDATION = "0000[01].tar", "00002.tar"

RECALLS = [f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
COLUMNS = ["trial", *RECALLS, "mean_recall", "zero_shot", "tau", "objective", "seconds"]


def run_trial(trial: str, cache: str) -> dict[str, object]:
    """Train and evaluate one trial."""
    from rhocache_trainer import evaluate, load_config, train

    name, *changes = trial.partition("reference:")[0].split()
    with TemporaryDirectory() as output:
        changes = [*changes, f"output={output}", f"data.dataset={DATASET}"]
        changes.append(f"data.shards={TRAINING}")
        if name == "drrho":
            changes.append(f"cache={cache}")
        result = train(load_config(HERE / f"{name}.yaml", changes))
        scores = evaluate(
            result.model, DATASET, shards=VALIDATION, class_field="category", templates="simple"
        )
    values = [*scores.image_to_text.values(), *scores.text_to_image.values()]
    return {
        "trial": trial,
        **{column: f"{value:.4f}" for column, value in zip(RECALLS, values, strict=True)},
        "mean_recall": f"{sum(values) / len(values):.4f}",
        "zero_shot": f"{scores.zero_shot.accuracy if scores.zero_shot else 0:.4f}",
        "tau": f"{result.tau:.4f}",
        "objective": f"{result.objective:.4f}",
        "seconds": f"{result.seconds:.0f}",
    }


def prepare(work: Path, changes: list[str]) -> str:
    """Train a reference and score the training shards with it, once; the cache's folder."""
    from score import score

    from rhocache_trainer import load_config, train

    work = work / "_".join(["reference", *changes])
    if not (work / "cache" / "manifest.json").exists():
        changes = [*changes, f"output={work / 'run'}", f"data.dataset={DATASET}"]
        result = train(load_config(HERE / "reference.yaml", changes), resume="auto")
        score(DATASET, TRAINING, result.model, str(work / "cache"))
    return str(work / "cache")


def main(work: str) -> None:
    done = set()
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            done = {row["trial"] for row in csv.DictReader(file)}
    else:
        RESULTS.write_text(",".join(COLUMNS) + "\n")

    def start(trial: str) -> None:
        cache = caches.get(trial.partition("reference:")[2], "")
        subprocess.run(
            [sys.executable, __file__, "--trial", trial, cache],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.DEVNULL,
            check=True,
        )

    trials = [" ".join(line.split()) for line in sys.stdin if line.strip() and line[0] != "#"]
    trials = [trial for trial in trials if trial not in done]
    references = {t.partition("reference:")[2] for t in trials if t.startswith("drrho")}
    caches = {changes: prepare(Path(work), changes.split()) for changes in sorted(references)}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(start, trials))


if __name__ == "__main__":
    if sys.argv[1] == "--trial":
        row = run_trial(sys.argv[2], sys.argv[3])
        with RESULTS.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
        print(row, flush=True)
    else:
        main(sys.argv[1])
