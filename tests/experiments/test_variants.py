"""The rough variants of the icons: what is changed, how much of it, and the same each time."""

import io
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.icons.variants import (
    VARIANTS,
    Pair,
    exchanged,
    mistaken,
    rare,
    read,
    repeated,
    write,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    image = io.BytesIO()
    Image.new("RGB", (4, 4)).save(image, "png")
    return [
        Pair(f"set--{n}", image.getvalue(), f"caption {n}", {"concept": f"class {n % 8}"})
        for n in range(400)
    ]


def test_captions_are_exchanged_among_themselves(pairs: list[Pair]) -> None:
    made = list(exchanged(0.3)(pairs, np.random.default_rng(0)))
    assert sum(a.caption != b.caption for a, b in zip(pairs, made, strict=True)) == 120
    assert Counter(pair.caption for pair in made) == Counter(pair.caption for pair in pairs)
    assert [(pair.key, pair.image) for pair in made] == [(pair.key, pair.image) for pair in pairs]


def test_each_pair_comes_four_times_under_names_of_its_own(pairs: list[Pair]) -> None:
    made = list(repeated(pairs, np.random.default_rng(0)))
    assert len({pair.key for pair in made}) == 1600
    assert set(Counter(pair.caption for pair in made).values()) == {4}
    assert [pair.caption for pair in made[:4]] != [made[0].caption] * 4, "they are mixed"


def test_classes_are_wrong_in_so_many(pairs: list[Pair]) -> None:
    made = list(mistaken(0.3)(pairs, np.random.default_rng(0)))
    wrong = sum(a.about != b.about for a, b in zip(pairs, made, strict=True))
    assert 90 <= wrong <= 150
    assert {pair.about["concept"] for pair in made} == {pair.about["concept"] for pair in pairs}


def test_three_of_four_classes_are_rare_and_none_is_lost(pairs: list[Pair]) -> None:
    counts = Counter(pair.about["concept"] for pair in rare(1 / 6)(pairs, np.random.default_rng(0)))
    assert len(counts) == 8
    assert counts["class 0"] == counts["class 4"] == 50
    few = [count for name, count in counts.items() if name not in ("class 0", "class 4")]
    assert max(few) < 20


def test_they_are_written_beside_the_icons_the_same_each_time(
    pairs: list[Pair], tmp_path: Path
) -> None:
    for name in ("target", "target-classes"):
        (tmp_path / name).mkdir()
        for number in range(2):
            write(tmp_path / name / f"{number:05}.tar", pairs[200 * number : 200 * number + 200])
    command = [sys.executable, "-m", "experiments.icons.variants", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    once = {path: path.read_bytes() for path in tmp_path.rglob("*.tar")}
    assert {path.parent.name for path in once} == {"target", "target-classes", *VARIANTS}
    assert read(tmp_path / "target" / "00000.tar") == pairs[:200]
    assert len(read(tmp_path / "target-exchanged-10" / "00000.tar")) == 400
    subprocess.run(command, cwd=ROOT, check=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.tar")} == once
