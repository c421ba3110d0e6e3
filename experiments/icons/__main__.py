"""``python -m experiments.icons OUT``: an image-text dataset of 370,000 icons and their names."""

import argparse
import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.progress import track

from experiments.icons.names import caption, concept
from experiments.icons.pack import SHARD_PAIRS, Pair, write
from experiments.icons.package import IconSet, icon_sets, unpack
from experiments.icons.render import read_set, render_sets
from experiments.icons.splits import Icon, classes, split


def main(out: Path, archive: Path | None, processes: int) -> None:
    package = unpack(out / "work", archive)
    paths = sorted(package.glob("*.json"))
    rendered = out / "work" / "rendered"
    for _ in track(render_sets(rendered, paths, processes), "Render sets", len(paths)):
        pass
    sets = icon_sets(package)
    splits = split(
        Icon(each.prefix, *icon) for each in sets for icon in read_set(rendered, each.prefix)
    )
    named = frozenset(classes([splits["validation"], splits["test"]]))
    for name, icons in splits.items():
        write_shards(out / name, icons, sets, named)
        classed = [icon for icon in icons if concept(icon.name) in named]
        write_shards(out / f"{name}-classes", classed, sets, named)
    write_sets(out / "sets.csv", sets, splits)


def write_shards(
    folder: Path, icons: Sequence[Icon], sets: Sequence[IconSet], named: frozenset[str]
) -> None:
    """Write the WebDataset shards of a split, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    licences = {each.prefix: each.licence for each in sets}
    starts = range(0, len(icons), SHARD_PAIRS)
    for start in track(starts, f"Write {folder.name}"):
        path = folder / f"{start // SHARD_PAIRS:05}.tar"
        if path.exists():
            continue
        pairs: list[Pair] = []
        for icon in icons[start : start + SHARD_PAIRS]:
            about = {"set": icon.prefix, "name": icon.name, "licence": licences[icon.prefix]}
            if concept(icon.name) in named:
                about["concept"] = concept(icon.name)
            pairs.append(Pair(icon.key, icon.png, caption(icon.name), about))
        write(path, pairs)


def write_sets(path: Path, sets: Sequence[IconSet], splits: dict[str, list[Icon]]) -> None:
    """Write whose the icons are, under which licence, and how many of them each split has."""
    counts = {name: Counter(icon.prefix for icon in icons) for name, icons in splits.items()}
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["set", "title", "author", "licence", "url", *splits])
        for each in sets:
            numbers = [counts[name][each.prefix] for name in splits]
            about = [each.prefix, each.title, each.author, each.licence, each.url]
            table.writerow([*about, *numbers])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--package", type=Path, help="the npm package's archive, if it is here")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    main(arguments.out, arguments.package, arguments.processes)
