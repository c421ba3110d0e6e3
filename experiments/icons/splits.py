"""Splits icons: sets that no training has seen to evaluate on, and the rest to train on."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

import xxhash

from experiments.icons.names import concept

TARGET = 65_536  # pairs
CLASSES = 200

# Sets of one family (forks, styles and versions of one another) are all here or all not.
VALIDATION = [
    "akar-icons", "bx", "bxs", "circum", "feather", "heroicons", "heroicons-outline",
    "heroicons-solid", "iconoir", "lucide", "lucide-lab", "octicon", "radix-icons",
    "system-uicons", "zondicons",
]  # fmt: skip
TEST = [
    "bi", "boxicons", "carbon", "famicons", "gg", "grommet-icons", "humbleicons", "ion", "jam",
    "majesticons", "mingcute", "mono-icons", "ri", "tabler", "teenyicons", "typcn", "uil", "uim",
    "uis", "uit", "uiw", "vaadin",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Icon:
    prefix: str  # of its set
    name: str
    png: bytes

    @property
    def key(self) -> str:
        return f"{self.prefix}--{self.name}"


def split(icons: Iterable[Icon]) -> dict[str, list[Icon]]:
    """Return the icons of each split in a random order that is always the same.

    A rendering that several splits would have, byte for byte, stays in the first of them alone:
    nothing that is evaluated on was trained on, and the reference has seen nothing of the target's.
    Within a split it may come twice, as pictures on the web do.
    """
    of_set = dict.fromkeys(TEST, "test") | dict.fromkeys(VALIDATION, "validation")
    order = sorted(icons, key=lambda icon: sha256(icon.key.encode()).digest())
    splits: dict[str, list[Icon]] = {}
    seen: set[bytes] = set()
    for name in ("test", "validation"):
        _take(splits, name, (icon for icon in order if of_set.get(icon.prefix) == name), seen)
    rest = [icon for icon in order if icon.prefix not in of_set]
    target = [icon for icon in rest if _hash(icon) not in seen][:TARGET]
    _take(splits, "target", target, seen)
    chosen = {icon.key for icon in target}
    _take(splits, "reference", (icon for icon in rest if icon.key not in chosen), seen)
    return splits


def _take(
    splits: dict[str, list[Icon]], name: str, icons: Iterable[Icon], seen: set[bytes]
) -> None:
    splits[name] = [icon for icon in icons if _hash(icon) not in seen]
    seen.update(map(_hash, splits[name]))


def _hash(icon: Icon) -> bytes:
    return xxhash.xxh3_128_digest(icon.png)


def classes(evaluated: Iterable[Sequence[Icon]]) -> Iterator[str]:
    """Yield the most frequent concepts of the splits that are evaluated on, the frequent first."""
    counts = Counter(concept(icon.name) for icons in evaluated for icon in icons)
    del counts[""]
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    yield from (name for name, _ in ranked[:CLASSES])
