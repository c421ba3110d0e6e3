"""``python -m experiments.icons.variants DATA``: the icons as rough as data are outside.

Of DATA/target's first four shards: captions of 10% and 30% of the pairs exchanged; and the first
shard four times. Of DATA/target-classes: 30% of the classes wrong; and all but every fourth class
rare, with a sixth of its icons.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.icons.pack import SHARD_PAIRS, Pair, write
from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.shards import list_shards

SHARDS = 4


Change = Callable[[list[Pair], np.random.Generator], Iterable[Pair]]


def exchanged(share: float) -> Change:
    """Some captions are those of other pairs."""

    def change(pairs: list[Pair], random: np.random.Generator) -> Iterator[Pair]:
        chosen = random.choice(len(pairs), round(share * len(pairs)), replace=False)
        other = dict(zip(chosen.tolist(), np.roll(chosen, 1).tolist(), strict=True))
        for at, pair in enumerate(pairs):
            yield replace(pair, caption=pairs[other.get(at, at)].caption)

    return change


def repeated(pairs: list[Pair], random: np.random.Generator) -> Iterator[Pair]:
    """The first shard as often as there are shards, mixed."""
    few = [pair for pair in pairs[:SHARD_PAIRS] for _ in range(SHARDS)]
    for at in random.permutation(len(few)).tolist():
        yield replace(few[at], key=f"{few[at].key}--{at % SHARDS}")


def mistaken(share: float) -> Change:
    """Some classes are any of the others."""

    def change(pairs: list[Pair], random: np.random.Generator) -> Iterator[Pair]:
        names = sorted({pair.about["concept"] for pair in pairs})
        for pair in pairs:
            wrong = random.random() < share
            others = [name for name in names if name != pair.about["concept"]]
            name = others[random.integers(len(others))] if wrong else pair.about["concept"]
            yield replace(pair, about=pair.about | {"concept": name})

    return change


def rare(share: float) -> Change:
    """Three of four classes have but a share of their icons, and one at least."""

    def change(pairs: list[Pair], random: np.random.Generator) -> Iterator[Pair]:
        names = sorted({pair.about["concept"] for pair in pairs})
        few = {name for at, name in enumerate(names) if at % 4}
        seen: set[str] = set()
        for pair in pairs:
            name = pair.about["concept"]
            if name not in few or name not in seen or random.random() < share:
                seen.add(name)
                yield pair

    return change


VARIANTS: dict[str, tuple[str, Change]] = {
    "target-exchanged-10": ("target", exchanged(0.1)),
    "target-exchanged-30": ("target", exchanged(0.3)),
    "target-repeated": ("target", repeated),
    "classes-mistaken": ("target-classes", mistaken(0.3)),
    "classes-rare": ("target-classes", rare(1 / 6)),
}


def main(data: Path) -> None:
    sources = {source for source, _ in VARIANTS.values()}
    pairs_of = {source: read(data / source) for source in sources}
    for name, (source, change) in VARIANTS.items():
        made = list(change(pairs_of[source], np.random.default_rng(0)))
        (data / name).mkdir(exist_ok=True)
        for number, start in enumerate(range(0, len(made), SHARD_PAIRS)):
            write(data / name / f"{number:05}.tar", made[start : start + SHARD_PAIRS])


def read(place: Path) -> list[Pair]:
    """The pairs of a shard, or of a folder's first ones."""
    found = (pair for shard in list_shards(str(place))[:SHARDS] for pair in ShardReader(shard))
    return [Pair(pair.key, *pair.content(), json.loads(pair.metadata or b"{}")) for pair in found]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    main(parser.parse_args().data)
