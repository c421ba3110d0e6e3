import hashlib
import io
import json
import random
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from caches import flip_index

from rhocache_schemas.cache import index
from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.errors import CacheIncomplete, CacheNotFound, DatasetError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.maintain.repair import repair
from rhocache_workers.maintain.verify import verify


def shard_file(spec: ScoreSpec, name: str = "00001.tar") -> Path:
    return Path(spec.output, "shards", f"{name}.parquet")


def rewrite(tar: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Put ``change(name, content)`` in place of each member; None drops it."""
    with tarfile.open(tar) as archive:
        members = [(info.name, archive.extractfile(info).read()) for info in archive]
    with tarfile.open(tar, "w") as archive:
        for name, data in members:
            changed = change(name, data)
            if changed is not None:
                info = tarfile.TarInfo(name)
                info.size = len(changed)
                archive.addfile(info, io.BytesIO(changed))


def test_a_sound_cache(scored: ScoreSpec) -> None:
    report = verify(scored.output, scored.dataset, sample=10)
    assert report.findings == []
    assert report.notes == []
    assert (report.shards, report.rows) == (3, 24)
    assert (report.pairs_compared, report.pairs_encoded_again) == (24, 10)
    assert report.largest_difference is not None
    assert 0 < report.largest_difference < 2.5e-4  # half a unit in the last place below 1


def test_without_a_dataset_it_says_what_it_did_not_check(scored: ScoreSpec) -> None:
    report = verify(scored.output)
    assert report.ok
    assert report.notes == ["no dataset was given: its pairs were not compared"]


def test_wherever_a_byte_is_flipped_it_is_named(copied: ScoreSpec) -> None:
    path = shard_file(copied)
    data = path.read_bytes()
    draw = random.Random(0)
    for place in draw.sample(range(len(data)), 150):
        flipped = bytearray(data)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        report = verify(copied.output)
        assert "differ" in report.findings[0].problem
        assert {finding.where for finding in report.findings} == {"shard 00001.tar"}


def test_a_missing_shard_is_named(copied: ScoreSpec) -> None:
    shard_file(copied).unlink()
    (finding,) = verify(copied.output).findings
    assert finding.where == "shard 00001.tar"
    assert "missing" in finding.problem


def test_a_damaged_index_is_named(copied: ScoreSpec) -> None:
    path = Path(copied.output, "index.parquet")
    of_two = index.encode(index.decode(path.read_bytes(), "index")[:2])
    for damaged in (of_two, b"PAR1"):
        path.write_bytes(damaged)
        report = verify(copied.output)
        (finding,) = report.findings
        assert (finding.where, report.shards) == ("index.parquet", 3), "it is believed in nothing"
        assert hashlib.sha256(damaged).hexdigest() in finding.problem


def test_a_changed_caption_and_image_are_named_by_shard_and_key(copied: ScoreSpec) -> None:
    tar = Path(copied.dataset, "00002.tar")

    def change(name: str, data: bytes) -> bytes:
        if name == "0000017.txt":
            return b"another caption"
        return data + b"\0" if name == "0000019.jpg" else data

    rewrite(tar, change)
    findings = [(f.where, f.problem) for f in verify(copied.output, copied.dataset).findings]
    assert findings[:2] == [
        ("shard 00002.tar, key 0000017", "the caption is not the one that was scored"),
        ("shard 00002.tar, key 0000019", "the image is not the one that was scored"),
    ]
    assert [where for where, problem in findings[2:] if "SHA-256" in problem] == ["shard 00002.tar"]


def test_a_dropped_pair_and_a_lost_source_are_named(copied: ScoreSpec) -> None:
    rewrite(
        Path(copied.dataset, "00000.tar"),
        lambda name, data: None if name.startswith("0000007") else data,
    )
    Path(copied.dataset, "00002.tar").unlink()
    findings = {(f.where, f.problem) for f in verify(copied.output, copied.dataset).findings}
    assert ("shard 00000.tar", "its source has 7 pairs, the cache 8 rows") in findings
    assert ("shard 00002.tar", f"is not in {copied.dataset}") in findings


def test_a_reference_that_is_gone_is_a_note_and_a_changed_one_a_finding(
    copied: ScoreSpec, make_reference: Callable[[int], Path], tmp_path: Path
) -> None:
    def point_to(folder: Path) -> None:
        path = Path(copied.output, "manifest.json")
        manifest = Manifest.read(str(path))
        reference = manifest.reference.model_copy(update={"model": f"local-dir:{folder}"})
        path.write_bytes(manifest.model_copy(update={"reference": reference}).to_json())

    point_to(tmp_path / "gone")
    report = verify(copied.output, copied.dataset)
    assert report.ok
    assert "no pair was encoded again: no folder" in report.notes[0]

    point_to(make_reference(1))
    (finding,) = verify(copied.output, copied.dataset).findings
    assert "weights_sha256" in finding.problem


def test_what_can_not_be_verified(copied: ScoreSpec, tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        verify(copied.output, str(tmp_path / "none"))
    Path(copied.output, "manifest.json").unlink()
    with pytest.raises(CacheIncomplete):
        verify(copied.output)
    shutil.rmtree(copied.output)
    with pytest.raises(CacheNotFound):
        verify(copied.output)


def test_a_damaged_summary_is_named_and_made_anew(copied: ScoreSpec) -> None:
    path = Path(copied.output, "summary.json")
    whole = path.read_bytes()
    told = flip_index(copied.output, "summary.json")
    report = verify(copied.output)
    assert [finding.where for finding in report.findings] == ["summary.json"]
    assert re.search(told, report.findings[0].problem)
    repair(report)
    assert verify(copied.output).findings == []
    assert path.read_bytes() == whole


def test_a_summary_of_other_rows_is_named(copied: ScoreSpec) -> None:
    path, manifest = Path(copied.output, "summary.json"), Path(copied.output, "manifest.json")
    changed = path.read_text().replace('"row": 0', '"row": 1', 1).encode()
    path.write_bytes(changed)
    named = json.loads(manifest.read_text())
    named["summary_sha256"] = hashlib.sha256(changed).hexdigest()
    manifest.write_text(json.dumps(named))
    (finding,) = verify(copied.output).findings
    assert (finding.where, finding.problem) == (
        "summary.json", "is not of the rows that there are",
    )  # fmt: skip
