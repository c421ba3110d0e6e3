"""Conversions, merges and exports that are killed half-way, and then done again."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from caches import commit
from killed import Do, killing

from rhocache_schemas.cache.listing import find_caches
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import CacheNotFound
from rhocache_workers.maintain.verify import verify

from .test_exchange import REFERENCE, UIDS, made


@pytest.fixture(scope="module")
def do() -> Iterator[Do]:
    with killing() as do:
        yield do


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("caches")
    shards = {"a/0.tar": made(UIDS[:3], 0, bad=1), "b.tar": made(UIDS[3:], 1)}
    one = commit(folder / "one", shards, reference=REFERENCE)
    return [
        str(one),
        str(commit(folder / "two", {"c.tar": made(UIDS[:2], 2)}, reference=REFERENCE)),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """Of the files that do not tell when they were written, or where."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name not in ("manifest.json", "plan.json")
    }


def check_killed(do: Do, folder: Path, what: str, *arguments: Any, at: tuple[str, str]) -> None:
    """Nothing is there that passes for a result; done again, it is as if nothing had been."""
    out = folder / "out"
    assert os.WTERMSIG(do(what, *arguments, str(out), at=at)) == signal.SIGKILL
    left = [each.name for each in folder.iterdir()]
    assert len(left) == 1, "killed after it had begun"
    assert left[0].startswith(".out."), "and what it had begun is hidden"
    assert find_caches(str(folder)) == []
    with pytest.raises(CacheNotFound):
        CacheReader.open(str(out))
    assert do(what, *arguments, str(out)) == 0
    assert do(what, *arguments, str(folder / "undisturbed")) == 0
    assert contents(out) == contents(folder / "undisturbed")


STEPS = [
    ("before write", "plan.json"),
    ("half-written", "shards/b.tar.parquet"),
    ("after rename", "index.parquet"),
    ("before rename", "manifest.json"),
    ("os.rename", "out"),
]


@pytest.mark.parametrize("what", ["convert", "merge"])
@pytest.mark.parametrize("at", STEPS)
def test_caches_of_caches(
    do: Do, caches: list[str], tmp_path: Path, what: str, at: tuple[str, str]
) -> None:
    arguments = [caches[0], "int8"] if what == "convert" else [caches]
    check_killed(do, tmp_path, what, *arguments, at=at)
    assert verify(str(tmp_path / "out")).findings == []


@pytest.mark.parametrize("format", ["npy", "parquet-lists", "huggingface", "datacomp"])
@pytest.mark.parametrize("at", [("read", "shards/b.tar.parquet"), ("os.rename", "out")])
def test_exports(
    do: Do, caches: list[str], tmp_path: Path, format: str, at: tuple[str, str]
) -> None:
    check_killed(do, tmp_path, "export", caches[0], format, at=at)
