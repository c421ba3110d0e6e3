"""``python -m experiments.icons.sample ICONS OUT``: a few icons that may be given to anybody.

From the dataset that ``python -m experiments.icons ICONS`` makes: the first of its target's pairs
to train on and the first of its test's to evaluate on, those of the 200 most frequent concepts from
sets under licences that ask for no more than to be named with the icons.
"""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from experiments.icons import pack
from experiments.icons.pack import SHARD_PAIRS
from rhocache_schemas.dataset.formats import open_dataset
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.source import Source

PERMISSIVE = {"MIT", "Apache-2.0", "ISC", "CC0-1.0"}
TRAIN, TEST = 2048, 1024


def main(icons: Path, out: Path) -> None:
    train = list(islice(chosen(icons / "target"), TRAIN))
    test = list(islice(chosen(icons / "test"), TEST))
    out.mkdir(parents=True, exist_ok=True)
    shards = [train[start : start + SHARD_PAIRS] for start in range(0, len(train), SHARD_PAIRS)]
    for number, pairs in enumerate([*shards, test]):
        made = (packed(pair, metadata=pairs is test) for pair in pairs)
        pack.write(out / f"{number:05}.tar", made)
    counts = Counter(about(pair)["set"] for pair in chain(train, test))
    with (icons / "sets.csv").open(encoding="utf-8") as whole:
        rows = list(csv.reader(whole))
    with (out / "sets.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*rows[0][:5], "pairs"])
        table.writerows([*row[:5], counts[row[0]]] for row in rows if counts[row[0]])


def chosen(folder: Path) -> Iterator[Pair]:
    dataset = open_dataset(Source(dataset=str(folder)), "webdataset")
    for shard in dataset.shards:
        for pair in dataset.read(shard):
            fields = about(pair)
            if fields["licence"] in PERMISSIVE and "concept" in fields:
                yield pair


def about(pair: Pair) -> dict[str, str]:
    return json.loads(pair.metadata or b"{}")


def packed(pair: Pair, *, metadata: bool) -> pack.Pair:
    return pack.Pair(pair.key, *pair.content(), about(pair) if metadata else None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("icons", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    main(arguments.icons, arguments.out)
