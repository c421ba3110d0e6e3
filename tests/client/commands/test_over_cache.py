"""A job over a cache as a command, and what other commands make of its table."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from rhocache_schemas.table.reader import TableReader

from ...service.made import make_cache
from ..test_cli import error_line, here, run

refused = partial(error_line, run=here)


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return make_cache(tmp_path, {"one": "1", "two": "2", "three": "3"}, missing="two").output


def test_a_table_is_made_looked_at_and_deleted(cache: str, tmp_path: Path) -> None:
    table = tmp_path / "table"
    shown = here("losses", cache, "--out", table, "--here", "--tau=0.5").stdout
    # All embeddings are the same, so that every exponent is 0.
    assert "loss, mean        0" in shown
    assert "00000.tar  three  0" in shown
    again = json.loads(
        here("losses", cache, "--out", table, "--here", "--tau=0.5", "--json").stdout
    )
    assert (again["spec"]["tau"], again["rows"], again["files"]) == (0.5, 3, 1)
    assert json.loads(here("inspect", table, "--json").stdout) == again
    assert here("inspect", table).stdout == shown
    (table / "mine.txt").write_text("mine")
    told = here("delete", table, "--yes").stdout
    assert "deleted 5 files" in told
    assert "mine.txt is not the cache's: it stays" in told
    assert [file.name for file in table.iterdir()] == ["mine.txt"]
    assert Path(cache, "manifest.json").exists()


def test_a_classifier_of_pictures(cache: str, tmp_path: Path) -> None:
    """Whose labels are the captions, of the dataset that the cache's manifest names."""
    same = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3)).eval()
    for parameter in same.parameters():
        torch.nn.init.zeros_(parameter)
    program = torch.export.export(same, (torch.zeros(1, 3, 8, 8),))
    torch.export.save(program, tmp_path / "same.pt2")
    (tmp_path / "classes.json").write_text('["1", "2", "3"]')
    asked = ["--classifier", tmp_path / "same.pt2", "--classes", tmp_path / "classes.json"]
    asked += ["--mean=0,0,0", "--std=1,1,1", "--out", tmp_path / "table", "--here", "--json"]
    made = json.loads(here("classify", cache, *asked).stdout)
    assert made["spec"]["std"] == [1, 1, 1]
    assert made["summary"]["facts"]["loss, mean"] == pytest.approx(math.log(3))
    rows = TableReader.open(str(tmp_path / "table")).as_table(["label", "predicted"]).to_pylist()
    assert sorted((row["key"], row["label"], row["predicted"]) for row in rows) == [
        ("one", "1", "1"),
        ("three", "3", "1"),
        ("two", "2", None),  # which has no picture
    ]


def test_what_is_refused_is_one_line(cache: str, tmp_path: Path) -> None:
    here("losses", cache, "--out", tmp_path / "table", "--here")
    line = refused("losses", cache, "--out", tmp_path / "table", "--here", "--tau=2", code=1)
    assert "holds another table; differing: tau (there: None, now: 2.0)" in line
    line = refused("losses", tmp_path, "--out", tmp_path / "other", "--here", code=1)
    assert f"there is no cache at {tmp_path}" in line
    said = run("losses", cache, "--out=x", "--tau=0", code=2).stderr
    assert "1e-30<=x<=1000000.0" in " ".join(said.split())
