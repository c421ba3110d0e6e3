"""``python -m experiments.theory [--seeds 240]``: measure, and write the tables and the figure."""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from experiments.theory import figure
from experiments.theory.statistics import bands
from experiments.theory.studies import Measurement, measure

HERE = Path(__file__).parent


def main(seeds: int, folder: Path) -> None:
    context = get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found = [one for many in pool.map(measure, range(seeds)) for one in many]
    results, slopes = [], []
    curves: dict[tuple[str, str], figure.Curves] = defaultdict(dict)
    for (problem, study, method), by_size in group(found).items():
        name, sizes = [problem, study, method], list(by_size)
        values = np.array([[one.value for one in by_size[size]] for size in sizes]).T
        kept = [np.mean([one.kept for one in by_size[size]]) for size in sizes]
        means, slope = bands(np.array(sizes, dtype=float), values)
        curves[problem, study][method] = (np.array(sizes), means, slope)
        for size, band, share in zip(sizes, means.T, kept, strict=True):
            results.append([*name, size, *_short(band), f"{share:.2f}"])
        slopes.append([*name, *(f"{round(value, 3) + 0:.3f}" for value in slope)])  # no −0
    columns = ["problem", "study", "method"]
    _write(folder / "results.csv", [*columns, "size", "mean", "low", "high", "kept"], results)
    _write(folder / "slopes.csv", [*columns, "slope", "low", "high"], slopes)
    figure.draw(folder / "theory.svg", curves)


Groups = dict[tuple[str, str, str], dict[int, list[Measurement]]]


def group(found: list[Measurement]) -> Groups:
    """By problem, study and method, and then by size: one for each seed."""
    groups: Groups = {}
    for one in found:
        by_size = groups.setdefault((one.problem, one.study, one.method), {})
        by_size.setdefault(one.size, []).append(one)
    return groups


def _short(values: Iterable[float]) -> list[str]:
    return [f"{value:.4g}" for value in values]


def _write(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=240)
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    main(arguments.seeds, arguments.out)
