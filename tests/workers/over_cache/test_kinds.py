"""Each kind of jobs over a cache: killed while it writes, and on a cache that is committed anew."""

import os
import shutil
import signal
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from faults import FaultyDisk
from killed import Do, killing

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import CacheIncomplete
from rhocache_schemas.job.kinds import KINDS
from rhocache_schemas.table.documents import TableManifest
from rhocache_schemas.table.reader import TableReader
from rhocache_workers.over_cache.driver import make_table

SHARD = "shards/00000.tar.parquet"
# The file that is written last before the index, and what the kind is asked.
CASES = {
    "losses": (SHARD, {}),
    "neighbours": ("files/groups.parquet", {"threshold": 0.95}),
    "select": (SHARD, {"size": 10}),
    "prompts": ("files/prompts.parquet", {"classes": "{}/classes.txt", "templates": "name"}),
    "classify": (
        SHARD,
        {
            "classifier": "{}/head.pt2",
            "classes": "{}/classes.txt",
            "labels": "{}/labels.parquet",
        },
    ),
}


@pytest.fixture(scope="module")
def do() -> Iterator[Do]:
    with killing() as do:
        yield do


@pytest.fixture(scope="module")
def files(icons: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the files that are named above."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "classes.txt").write_text("arrow\ncircle\n")
    example = (torch.zeros(1, CacheReader.open(icons).manifest.dimension),)
    head = torch.nn.Linear(example[0].shape[1], 2).eval()
    torch.export.save(torch.export.export(head, example), folder / "head.pt2")
    keys = CacheReader.open(icons).columns("00000.tar", ["key"])["key"]
    numbers = pa.array([row % 2 for row in range(len(keys))])
    shards = pa.array(["00000.tar"] * len(keys))
    labels = pa.table({"shard": shards, "key": keys, "label": numbers})
    pq.write_table(labels, folder / "labels.parquet")
    return str(folder)


def spec_of(kind: str, cache: str, files: str, output: Path) -> dict[str, Any]:
    asked = {
        name: value.format(files) if isinstance(value, str) else value
        for name, value in CASES[kind][1].items()
    }
    return {"kind": kind, "cache": cache, "output": str(output), **asked}


def make(spec: dict[str, Any]) -> TableManifest:
    work = import_module(f"rhocache_workers.kinds.{spec['kind']}").WORK
    return make_table(KINDS[spec["kind"]].model_validate(spec), work, here=True)


@pytest.mark.parametrize("kind", CASES)
def test_a_job_that_is_killed(do: Do, icons: str, files: str, tmp_path: Path, kind: str) -> None:
    spec = spec_of(kind, icons, files, tmp_path / "table")
    ended = do("make", kind, spec, at=("half-written", CASES[kind][0]))
    assert os.WTERMSIG(ended) == signal.SIGKILL
    with pytest.raises(CacheIncomplete, match=r"no table\.json: it is still being made"):
        TableReader.open(spec["output"])
    made = make(spec)
    whole = make(spec | {"output": str(tmp_path / "whole")})
    assert made.index_sha256 == whole.index_sha256
    left = {str(file.relative_to(tmp_path / "table")) for file in (tmp_path / "table").rglob("*")}
    assert left == {
        str(file.relative_to(tmp_path / "whole")) for file in (tmp_path / "whole").rglob("*")
    }


@pytest.mark.parametrize("kind", CASES)
def test_a_cache_that_is_committed_anew(
    icons: str, files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    cache = shutil.copytree(icons, tmp_path / "cache")
    spec = spec_of(kind, str(cache), files, tmp_path / "table")

    def strike(step: str, path: str) -> None:
        if (step, path) == ("before write", f"{tmp_path}/table/{CASES[kind][0]}"):
            anew = Manifest.read(layout.manifest_file(icons)).model_copy(update={"created_at": 5.0})
            Path(layout.manifest_file(str(cache))).write_bytes(anew.to_json())

    with monkeypatch.context() as patched:
        patched.setattr(storage, "resolve", storage.resolve)
        FaultyDisk(strike).install()
        with pytest.raises(CacheIncomplete, match="has been committed anew since this job began"):
            make(spec)
    with pytest.raises(CacheIncomplete, match=r"no table\.json"):
        TableReader.open(spec["output"])
