"""Caches that formats 1.0 and 2.0 wrote, which every later rhocache must read.

They are never made again.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rhocache_schemas.cache import index, shard_file
from rhocache_schemas.cache.documents import Manifest, Plan, Progress, ShardFailure
from rhocache_schemas.cache.summary import Summary

from .golden_reader import read_cache, vectors

HERE = Path(__file__).parent
GOLDEN = HERE / "golden-1"
ALL = [GOLDEN, HERE / "golden-2", HERE / "golden-2-int8"]
READER = Path(__file__).with_name("golden_reader.py")


def test_its_progress_is_read_by_the_words_of_then() -> None:
    progress = Progress.read(f"{GOLDEN}/progress.json")
    assert (progress.shards_committed, progress.shards_failed, progress.shards_ended) == (2, 1, 3)


@pytest.mark.parametrize("golden", ALL, ids=lambda golden: golden.name)
def test_golden_caches_are_read_as_by_the_specification_alone(golden: Path) -> None:
    pairs = read_cache(golden)
    manifest = Manifest.read(f"{golden}/manifest.json")
    assert manifest.fingerprint.digest == manifest.fingerprint_sha256
    data = (golden / "index.parquet").read_bytes()
    for shard in index.decode(data, "index"):
        file = (golden / "shards" / f"{shard.name}.parquet").read_bytes()
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
                image, text = rows.image[row], rows.text[row]
                assert np.array_equal(vectors(pair, "image", len(image)), image)
                assert np.array_equal(vectors(pair, "text", len(text)), text)
                assert pair["similarity"] == rows.similarity[row]
    assert not pairs


def test_format_2_has_128_bits_several_captions_a_summary_and_its_error() -> None:
    for golden in ALL[1:]:
        pairs = read_cache(golden).values()
        assert {len(pair["image_hash"]) for pair in pairs if pair["image_hash"]} == {16}
        captions = [len(pair["text_embeddings"]) for pair in pairs if pair["status"] == "ok"]
        assert set(captions) == {1, 2, 3}
        manifest = Manifest.read(f"{golden}/manifest.json")
        summary = Summary.read(f"{golden}/summary.json")
        found = sorted(pair["similarity"] for pair in pairs if pair["status"] == "ok")
        assert [pair.similarity for pair in summary.lowest] == found
        assert manifest.rounding is not None
        assert manifest.rounding.logit.max == 100 * manifest.rounding.similarity.max


def test_its_other_documents() -> None:
    plan = Plan.read(f"{GOLDEN}/plan.json")
    assert plan.fingerprint == Manifest.read(f"{GOLDEN}/manifest.json").fingerprint
    failure = ShardFailure.read(f"{GOLDEN}/failures/00002.tar.json")
    assert (failure.shard, failure.code) == ("00002.tar", "tar_truncated")


def test_the_reader_imports_nothing_of_ours_and_is_short() -> None:
    source = READER.read_text()
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", source, re.MULTILINE))
    assert imported == {"hashlib", "json", "numpy", "pathlib", "pyarrow", "sys", "typing"}
    assert len(source.splitlines()) <= 110


@pytest.mark.parametrize(
    ("golden", "name"),
    [
        ("golden-1", "manifest.json"),
        ("golden-1", "index.parquet"),
        ("golden-1", "shards/00000.tar.parquet"),
        ("golden-1", "shards/00001.tar.parquet"),
        ("golden-2", "summary.json"),
        ("golden-2-int8", "shards/00000.tar.parquet"),
    ],
)
def test_the_reader_sees_a_flipped_byte(golden: str, name: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(HERE / golden, cache)
    data = bytearray((cache / name).read_bytes())
    place = data.index(b"SimpleTokenizer") if name == "manifest.json" else len(data) // 2
    data[place] ^= 1
    (cache / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, READER, cache], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "damaged" in done.stderr
