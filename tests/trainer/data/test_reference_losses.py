"""Tables of a reference's losses, as other tools write them."""

import math
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rhocache_schemas.errors import InvalidDocument, InvalidInput, MissingPair, RhocacheError
from rhocache_trainer.data.reference_losses import read_losses

SAMPLES = [("00000.tar", "a"), ("00000.tar", "b"), ("00001.tar", "a")]
GOOD = {
    "key": ["b", "other", "a", "a"],
    "shard": ["00000.tar", "00000.tar", "00001.tar", "00000.tar"],
    "loss": [0.5, 9.0, 2.5, 1.5],
}


def write(folder: Path, columns: dict[str, list[Any]], **schema: Any) -> str:
    pl.DataFrame(columns, schema_overrides=schema).write_parquet(folder / "losses.parquet")
    return str(folder / "losses.parquet")


def test_losses_come_in_the_samples_order(tmp_path: Path):
    assert read_losses(write(tmp_path, GOOD), SAMPLES) == [1.5, 0.5, 2.5]
    single = write(tmp_path, GOOD, loss=pl.Float32)
    assert read_losses(f"file://{single}", SAMPLES[::-1]) == [2.5, 0.5, 1.5]


def test_keys_alone_are_enough_where_they_differ(tmp_path: Path):
    table = write(tmp_path, {"loss": [3.0, 4.0], "key": ["y", "x"]})
    assert read_losses(table, [("00000.tar", "x"), ("00001.tar", "y")]) == [4.0, 3.0]
    assert read_losses(table, [(None, "x"), (None, "y")]) == [4.0, 3.0]
    with pytest.raises(InvalidInput, match=r"2 samples have key x: give .* a column shard"):
        read_losses(table, [("00000.tar", "x"), ("00001.tar", "x")])
    with pytest.raises(InvalidInput, match=r"name others with data\.key_column"):
        read_losses(table, [(None, "x"), (None, "x")])


def test_shards_of_a_table_mean_nothing_to_a_dataset_without(tmp_path: Path):
    table = write(tmp_path, {"loss": [3.0], "key": ["x"], "shard": ["00000.tar"]})
    assert read_losses(table, [(None, "x")]) == [3.0]
    with pytest.raises(InvalidDocument, match="row 3: key a comes twice"):
        read_losses(write(tmp_path, GOOD), [(None, "b")])


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"loss": [0.5, 9.0, math.nan, 1.5]}, InvalidDocument,
         "row 2: the loss of shard 00001.tar, key a is nan; it must be a finite"),
        ({"loss": [0.5, 9.0, math.inf, 1.5]}, InvalidDocument, "key a is inf"),
        ({"loss": [0.5, None, 2.5, 1.5]}, InvalidDocument, "row 1: .* key other is None"),
        ({"loss": [1, 2, 3, 4]}, InvalidDocument, "row 0: the loss of .* is 1; .* floating-point"),
        ({"key": ["b", "a", "a", "a"]}, InvalidDocument,
         "row 3: shard 00000.tar, key a comes twice"),
        ({"key": [1, 2, 3, 4]}, InvalidDocument, "row 0: shard 00000.tar, key 1 must be named by"),
        ({"key": ["b", None, "a", "a"]}, InvalidDocument, "row 1: .* key None must be named by"),
        ({"shard": ["00000.tar", "00000.tar", None, "00000.tar"]}, InvalidDocument,
         "row 2: key a must be named by strings"),
        ({"key": ["b", "other", "c", "d"]}, MissingPair,
         "no loss for 2 of 3 samples: shard 00000.tar, key a; shard 00001.tar, key a$"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    tmp_path: Path, changes: dict[str, list[Any]], error: type[RhocacheError], words: str
):
    table = write(tmp_path, GOOD | changes)
    with pytest.raises(error, match=f"^{re.escape(table)}.*{words}"):
        read_losses(table, SAMPLES)


def test_what_is_no_table(tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"cannot read .*nowhere\.parquet: .*[Nn]o such file"):
        read_losses(str(tmp_path / "nowhere.parquet"), SAMPLES)
    (tmp_path / "text.parquet").write_text("key,loss\na,1\n")
    with pytest.raises(InvalidInput, match="is not a readable Parquet file") as caught:
        read_losses(str(tmp_path / "text.parquet"), SAMPLES)
    assert "\n" not in str(caught.value)
    for name in ("key", "loss"):
        table = write(tmp_path, {k: v for k, v in GOOD.items() if k != name} | {"more": [1] * 4})
        with pytest.raises(InvalidDocument, match=f"has no column {name}; it has .*more"):
            read_losses(table, SAMPLES)
