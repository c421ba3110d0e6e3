"""Checkpoints whose tables are in several files."""

from itertools import product
from pathlib import Path

import pytest
import torch

from rhocache_schemas.errors import TrainingError
from rhocache_trainer.training.checkpoint import Checkpoints, Rows

N = 10
TABLE = torch.arange(1.0, N + 1)


def shares(ranks: int) -> list[Rows]:
    """What each of so many holds, the last ones perhaps nothing."""
    length = -(-N // ranks)
    firsts = [min(rank * length, N) for rank in range(ranks)]
    return [
        Rows(range(first, min(first + length, N)), {"u": TABLE[first : first + length].clone()})
        for first in firsts
    ]


def save(checkpoints: Checkpoints, step: int, held: list[Rows]) -> list[str]:
    names = [checkpoints.save_rows(step, rows, rank, len(held)) for rank, rows in enumerate(held)]
    written = [name for name in names if name]
    checkpoints.save(step, {"step": step}, written)
    return written


@pytest.mark.parametrize(("before", "after"), list(product((1, 2, 3, 4, 7), repeat=2)))
def test_any_ranks_read_what_any_others_have_saved(tmp_path: Path, before: int, after: int) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    save(checkpoints, 3, shares(before))
    state, parts = checkpoints.load()
    assert state["step"] == 3
    for rows in shares(after):
        expected = rows.tables["u"].clone()
        rows.tables["u"].zero_()
        rows.fill(parts)
        assert torch.equal(rows.tables["u"], expected)


def test_of_a_table_that_all_ranks_have_one_is_saved(tmp_path: Path) -> None:
    whole = [Rows(range(N), {"u": TABLE})] * 4
    assert save(Checkpoints(tmp_path, keep=1), 3, whole) == ["step-00000003.0-of-4.rows"]
    assert save(Checkpoints(tmp_path, keep=1), 4, [Rows(range(0), {})] * 2) == []


def test_rows_go_with_their_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save_rows(1, shares(2)[1], 1, 2)  # of a run that was killed before rank 0's were
    for step in (2, 3, 4):
        save(checkpoints, step, shares(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step-0000000{step}.{part}"
        for step in (3, 4)
        for part in ("0-of-2.rows", "1-of-2.rows", "pt")
    ]


@pytest.mark.parametrize("cut", [True, False])
def test_where_rows_are_damaged_the_checkpoint_before_is_read(tmp_path: Path, cut: bool) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        save(checkpoints, step, shares(2))
    for step in (2, 1):
        assert checkpoints.load()[0]["step"] == step
        damaged = tmp_path / f"step-0000000{step}.1-of-2.rows"
        if cut:
            damaged.write_bytes(damaged.read_bytes()[:-100])
        else:
            damaged.unlink()
    with pytest.raises(TrainingError, match=r"step-00000002\.1-of-2\.rows is not a readable"):
        checkpoints.load()
