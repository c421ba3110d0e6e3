"""Every case of the hostile corpus, through the reader of shards and the opening of images."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import hostile
import pytest

from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.errors import RowError, ShardError

CORPUS = hostile.corpus()
DOCUMENT = Path(__file__).parents[3] / "docs" / "hostile-corpus.md"
GOOD = (hostile.png(), "a caption", b'{"caption": "a caption"}')


def read(case: hostile.Case, folder: Path) -> list[Pair]:
    path = folder / "0.tar"
    path.write_bytes(case.shard)
    reader = ShardReader(list_shards(str(path))[0], case.caption_field)
    pairs = list(reader)
    assert reader.sha256 == hashlib.sha256(case.shard).hexdigest()
    return pairs


def status(pair: Pair) -> str:
    if pair.error is not None:
        return pair.error
    assert pair.image is not None
    try:
        open_image(pair.image)
    except RowError as error:
        return error.code
    return "ok"


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_each_case_yields_exactly_its_outcome(case: hostile.Case, tmp_path: Path) -> None:
    if isinstance(case.expected, str):
        with pytest.raises(ShardError) as caught:
            read(case, tmp_path)
        assert caught.value.code == case.expected
        return
    pairs = read(case, tmp_path)
    assert [status(pair) for pair in pairs] == list(case.expected)
    for pair in pairs:
        pair.key.encode()  # Parquet's strings must be UTF-8
    if not case.whole:
        for key, pair in (("before", pairs[0]), ("after", pairs[-1])):
            assert (pair.key, pair.image, pair.caption, pair.metadata) == (key, *GOOD)


# Python tells audit hooks of each file that it opens, makes or removes and of each process.
READ_ALL = """
import contextlib, json, os, sys
from pathlib import Path
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.errors import RowError, ShardError
from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.dataset.formats.webdataset import ShardReader

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGING = {"os." + name for name in (
    "chmod", "chown", "exec", "fork", "link", "mkdir", "posix_spawn", "remove", "rename", "rmdir",
    "symlink", "system", "truncate", "utime")} | {"subprocess.Popen", "socket.connect"}
caught = []

def watch(event, arguments):
    if event in CHANGING or event == "open" and arguments[2] & WRITING:
        caught.append([event, repr(arguments)])

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

def read(shard, field):
    with contextlib.suppress(ShardError):
        for pair in ShardReader(shard, field):
            with contextlib.suppress(RowError):
                if pair.error is None:
                    open_image(pair.image)

shards = [(shard, field) for folder, field in (("txt", None), ("json", "caption"))
          for shard in list_shards(folder)]
read(*shards[0])  # what Pillow and Arrow load at first use
before = peak()
sys.addaudithook(watch)
for shard, field in shards:
    read(shard, field)
print(json.dumps({"shards": len(shards), "grown": peak() - before, "caught": caught}))
"""


def test_memory_stays_bounded_and_nothing_is_written(tmp_path: Path) -> None:
    for case in CORPUS:
        path = tmp_path / ("json" if case.caption_field else "txt") / f"{case.name}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(case.shard)
    before = sorted(tmp_path.rglob("*"))
    output = subprocess.run(
        [sys.executable, "-c", READ_ALL],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path),
                           "PYTHONDONTWRITEBYTECODE": "1"},
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    report = json.loads(output)
    assert report["caught"] == []
    assert sorted(tmp_path.rglob("*")) == before
    assert report["shards"] == len(CORPUS)
    assert report["grown"] < 256 << 20


def test_the_document_shows_the_corpus() -> None:
    document = DOCUMENT.read_text()
    assert hostile.table() in document
    assert f"{len(CORPUS)} cases" in document
