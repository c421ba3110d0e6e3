"""Images and their classes, from every kind of dataset that has them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_pairs import COLOURS, MadePair, N, make_pairs, rows, write_csv, write_parquet, write_tar

from rhocache_schemas.errors import DatasetError, MissingPair, RowError
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.labelled import LabelledPairs

CLASSES = sorted(COLOURS)


def colour(caption: str) -> str:
    return caption.rpartition(" ")[2]


def read(pairs: LabelledPairs) -> list[tuple[str, int, str | None]]:
    """Of all pairs: key, number and class."""
    loaded = [pairs.load(each) for shard in pairs.shards for each in pairs.read(shard)]
    return [(each.pair.key, each.index, each.pair.caption) for each in loaded]


def by_folder(pairs: list[MadePair]) -> list[MadePair]:
    return [
        MadePair(f"sets/{colour(pair.caption)}/{pair.key}", pair.image, pair.caption)
        for pair in pairs
    ]


def write_images(root: Path) -> Path:
    """A folder for each class, with nothing but images."""
    for pair in by_folder(make_pairs(0)):
        path = root / f"{pair.key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pair.image)
    return root


def check(pairs: LabelledPairs, expected: list[tuple[str, str]]) -> None:
    """Against the key and class of each pair, in order."""
    assert pairs.classes == CLASSES
    assert pairs.n == pairs.usable == sum(shard.rows or 0 for shard in pairs.shards)
    assert read(pairs) == [(key, n, name) for n, (key, name) in enumerate(expected)]


def test_a_field_of_tars(dataset: Path):
    pairs = LabelledPairs(Data(dataset=str(dataset), caption_field="colour"), "text", None)
    check(pairs, [(p.key, colour(p.caption)) for s in (0, 1) for p in make_pairs(s)])
    assert pairs.reference_losses is None


def test_the_folders_in_tars(tmp_path: Path):
    made = by_folder(make_pairs(0))
    write_tar(tmp_path / "0.tar", made, ("jpg", "other"))  # without a caption
    pairs = LabelledPairs(Data(dataset=str(tmp_path)), "folder", None)
    check(pairs, [(p.key, colour(p.caption)) for p in made])


def test_folders_of_images(tmp_path: Path):
    pairs = LabelledPairs(Data(dataset=str(write_images(tmp_path / "d"))), "folder", None)
    made = sorted(by_folder(make_pairs(0)), key=lambda pair: pair.key)
    check(pairs, [(p.key, colour(p.caption)) for p in made])


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.csv"])
def test_a_column_of_a_table(tmp_path: Path, name: str):
    content = [
        row | {"key": f"{number}", "colour": colour(str(row["caption"]))}
        for number, row in enumerate(rows())
    ]
    (write_csv if name.endswith("csv") else write_parquet)(tmp_path / name, content)
    data = Data(dataset=str(tmp_path / name), caption_column="colour", key_column="key")
    check(LabelledPairs(data, "text", None), [(str(r["key"]), str(r["colour"])) for r in content])


def test_what_has_no_class_has_no_number(tmp_path: Path):
    made = by_folder(make_pairs(0))
    made[3].key = "loose"
    made[5].image = b""
    write_tar(tmp_path / "d" / "0.tar", made)
    losses = {p.key: float(n) for n, p in enumerate(made) if n not in (3, 5)}
    table = {"key": list(losses), "loss": list(losses.values())}
    pq.write_table(pa.table(table), tmp_path / "losses.parquet")
    data = Data(dataset=str(tmp_path / "d"))
    pairs = LabelledPairs(data, "folder", str(tmp_path / "losses.parquet"))
    assert (pairs.n, pairs.shards[0].rows) == (10, 12)
    every = list(pairs.read(pairs.shards[0]))
    assert [each.index for each in every] == [0, 1, 2, -1, 3, -1, *range(4, 10)]
    assert [each.index for each in pairs.read(pairs.shards[0], 6)] == [4, 5, 6, 7, 8, 9]
    with pytest.raises(RowError, match=r"0\.tar, key loose: it lies in no folder"):
        pairs.load(every[3])
    with pytest.raises(RowError, match=r"key sets/green/0005: .*image"):
        pairs.load(every[5])
    assert pairs.reference_losses is not None
    assert pairs.reference_losses.tolist() == [n for n in range(12) if n not in (3, 5)]


def test_losses_are_found_by_shard_and_key(dataset: Path, tmp_path: Path):
    keys = [(f"{s:05}.tar", p.key) for s in (0, 1) for p in make_pairs(s)]
    shuffled = np.random.default_rng(0).permutation(N)
    table = {
        "shard": [keys[n][0] for n in shuffled],
        "key": [keys[n][1] for n in shuffled],
        "loss": shuffled.astype(np.float32),
    }
    data = Data(dataset=str(dataset), caption_field="colour")
    places = [str(tmp_path / name) for name in ("losses.parquet", "less.parquet")]
    pq.write_table(pa.table(table), places[0])
    pairs = LabelledPairs(data, "text", places[0])
    assert pairs.reference_losses is not None
    assert pairs.reference_losses.tolist() == list(range(N))
    pq.write_table(pa.table(table).slice(2), places[1])
    with pytest.raises(MissingPair, match="no loss for 2 of 24 samples"):
        LabelledPairs(data, "text", places[1])


def test_the_identity_is_that_of_samples_classes_and_losses(tmp_path: Path):
    data = Data(dataset=str(write_images(tmp_path / "d")))
    key = sorted(by_folder(make_pairs(0)), key=lambda pair: pair.key)

    def identity(loss: float | None) -> str:
        table = {"key": [p.key for p in key], "loss": [loss or 0.0] * len(key)}
        pq.write_table(pa.table(table), tmp_path / "losses.parquet")
        where = None if loss is None else str(tmp_path / "losses.parquet")
        return LabelledPairs(data, "folder", where).identity

    told = [identity(loss) for loss in (None, 1.0, 2.0)]
    assert len(set(told)) == 3
    assert identity(2.0) == told[2]
    (tmp_path / "d" / "sets" / "red").rename(tmp_path / "d" / "sets" / "rot")
    assert identity(None) != told[0]


@pytest.mark.parametrize(
    ("label", "field", "words"),
    [
        ("text", "species", r"has 0 images with a class, of none: .*00000\.tar holds"),
        ("folder", None, "has 0 images with a class"),
    ],
)
def test_no_class(dataset: Path, label, field: str | None, words: str):
    with pytest.raises(DatasetError, match=words):
        LabelledPairs(Data(dataset=str(dataset), caption_field=field), label, None)


def test_one_class_is_none(tmp_path: Path):
    made = [MadePair(f"red/{p.key}", p.image, p.caption) for p in make_pairs(0)]
    write_tar(tmp_path / "0.tar", made)
    with pytest.raises(DatasetError, match=r"has 12 images with a class, of red; .* needs 2"):
        LabelledPairs(Data(dataset=str(tmp_path)), "folder", None)


def test_a_folder_without_captions_is_still_none_to_a_clip(tmp_path: Path):
    write_images(tmp_path / "d")
    with pytest.raises(DatasetError, match="holds no caption"):
        LabelledPairs(Data(dataset=str(tmp_path / "d")), "text", None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("a")
    with pytest.raises(DatasetError, match="holds no image"):
        LabelledPairs(Data(dataset=str(tmp_path / "empty"), kind="folder"), "folder", None)
