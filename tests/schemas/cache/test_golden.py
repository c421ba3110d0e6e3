"""A cache that format 1.0 wrote, which every later rhocache must read: it is never made again."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rhocache_schemas.cache import index, shard_file
from rhocache_schemas.cache.documents import Manifest, Plan, Progress, ShardFailure

from .golden_reader import read_cache

GOLDEN = Path(__file__).with_name("golden")
READER = Path(__file__).with_name("golden_reader.py")


def test_its_progress_is_read_by_the_words_of_then() -> None:
    progress = Progress.read(f"{GOLDEN}/progress.json")
    assert (progress.shards_committed, progress.shards_failed, progress.shards_ended) == (2, 1, 3)


def test_the_golden_cache_is_read_as_by_the_specification_alone() -> None:
    pairs = read_cache(GOLDEN)
    manifest = Manifest.read(f"{GOLDEN}/manifest.json")
    data = (GOLDEN / "index.parquet").read_bytes()
    for shard in index.decode(data, "index"):
        file = (GOLDEN / "shards" / f"{shard.name}.parquet").read_bytes()
        rows, footer = shard_file.decode(file, shard.name)
        totals, _ = shard_file.sum_up(file, shard.name)
        assert footer.fingerprint_sha256 == manifest.fingerprint.digest
        assert totals.content_sha256 == shard.content_sha256
        for row, key in enumerate(rows.keys):
            pair = pairs.pop((shard.name, row))
            assert (pair["key"], pair["status"]) == (key, rows.status[row])
            assert pair["image_hash"] == rows.image_hash[row]
            assert pair["caption_hash"] == rows.caption_hash[row]
            if rows.ok[row]:
                assert np.array_equal(pair["image_embeddings"], rows.image[row])
                assert np.array_equal(pair["text_embeddings"], rows.text[row])
                assert pair["similarity"] == rows.similarity[row]
    assert not pairs


def test_its_other_documents() -> None:
    plan = Plan.read(f"{GOLDEN}/plan.json")
    assert plan.fingerprint == Manifest.read(f"{GOLDEN}/manifest.json").fingerprint
    assert json.loads(plan.to_json()) == json.loads((GOLDEN / "plan.json").read_bytes())
    failure = ShardFailure.read(f"{GOLDEN}/failures/00002.tar.json")
    assert (failure.shard, failure.code) == ("00002.tar", "tar_truncated")


def test_the_reader_imports_nothing_of_ours_and_is_short() -> None:
    source = READER.read_text()
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", source, re.MULTILINE))
    assert imported == {"hashlib", "json", "numpy", "pathlib", "pyarrow", "sys", "typing"}
    assert len(source.splitlines()) <= 80


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "index.parquet", "shards/00000.tar.parquet", "shards/00001.tar.parquet"],
)
def test_the_reader_sees_a_flipped_byte(name: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(GOLDEN, cache)
    data = bytearray((cache / name).read_bytes())
    place = data.index(b"SimpleTokenizer") if name == "manifest.json" else len(data) // 2
    data[place] ^= 1
    (cache / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, READER, cache], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "damaged" in done.stderr
