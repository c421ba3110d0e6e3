"""What a run that is killed has noted, the next need not read; and what a note is not believed."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Manifest, Progress
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.maintain.verify import verify
from rhocache_workers.run import progress, segments, survey
from rhocache_workers.run.driver import score
from rhocache_workers.run.segments import Segments, read_segments

pytestmark = pytest.mark.usefixtures("crew_here")


@pytest.fixture
def fingerprint(scored: ScoreSpec) -> str:
    return Manifest.read(layout.manifest_file(scored.output)).fingerprint_sha256


@pytest.fixture
def begun(copied: ScoreSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScoreSpec:
    """A cache of two shards of three, whose run was interrupted."""
    monkeypatch.setattr(segments, "_SHARDS", 1)
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    spec = copied.model_copy(update={"output": str(tmp_path / "begun")})
    interrupt(spec, lambda told: told.shards_committed == 2)
    return spec


def interrupt(spec: ScoreSpec, when: Callable[[Progress], bool]) -> None:
    def stop(told: Progress) -> None:
        if when(told):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(spec, on_progress=stop)


@pytest.fixture
def sums_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shard files that are read whole."""
    read: list[str] = []
    sum_up = survey.shard_file.sum_up

    def told(data: bytes, source: str) -> Any:
        read.append(Path(source).name)
        return sum_up(data, source)

    monkeypatch.setattr(survey.shard_file, "sum_up", told)
    return read


def index_of(spec: ScoreSpec) -> bytes:
    return Path(layout.index_file(spec.output)).read_bytes()


def files(spec: ScoreSpec) -> list[Path]:
    return sorted(Path(spec.output, "segments").glob("*"))


def test_what_is_noted_is_not_read_and_the_cache_is_the_same(
    begun: ScoreSpec, copied: ScoreSpec, fingerprint: str, sums_up: list[str]
) -> None:
    noted = read_segments(begun.output, fingerprint)
    assert sorted(noted) == ["00000.tar", "00001.tar"]
    summary = score(begun)
    assert sums_up == []
    assert (summary.shards, summary.encoded_shards) == (3, 1)
    assert index_of(begun) == index_of(copied)
    assert summary.failed_by_code == Manifest.read(f"{copied.output}/manifest.json").failed_by_code
    assert files(begun) == [], "the index says it all"


def test_a_run_that_is_killed_leaves_the_rest_to_be_read(
    begun: ScoreSpec, copied: ScoreSpec, sums_up: list[str]
) -> None:
    files(begun)[-1].unlink()
    score(begun)
    assert sums_up == ["00001.tar.parquet"]
    assert index_of(begun) == index_of(copied)


@pytest.mark.parametrize("content", [b"", b"PAR1 rubbish PAR1"])
def test_a_note_that_can_not_be_read_is_passed_over(
    begun: ScoreSpec, copied: ScoreSpec, sums_up: list[str], content: bytes
) -> None:
    for path in files(begun):
        path.write_bytes(content)
    score(begun)
    assert sorted(sums_up) == ["00000.tar.parquet", "00001.tar.parquet"]
    assert index_of(begun) == index_of(copied)


def test_a_note_of_another_reference_is_not_believed(begun: ScoreSpec, fingerprint: str) -> None:
    assert len(read_segments(begun.output, fingerprint)) == 2
    assert read_segments(begun.output, "0" * 64) == {}


def test_a_file_of_another_size_is_read(begun: ScoreSpec, copied: ScoreSpec) -> None:
    path = Path(layout.shard_file(begun.output, "00000.tar"))
    path.write_bytes(path.read_bytes()[:-1])
    summary = score(begun)
    assert summary.encoded_shards == 2, "it was cut, and is encoded again"
    assert index_of(begun) == index_of(copied)


def test_sources_of_another_time_are_hashed(begun: ScoreSpec, sums_up: list[str]) -> None:
    """One is another by a byte of the padding behind a picture, and one has another time alone."""
    changed, touched = (Path(begun.dataset) / name for name in ("00000.tar", "00001.tar"))
    data = bytearray(changed.read_bytes())
    end = 512 + int(data[124:135], 8)  # of the first member, behind its header
    assert end % 512
    data[end] = 1
    changed.write_bytes(data)
    os.utime(touched)
    assert score(begun).encoded_shards == 2, "the third was never encoded"
    assert sums_up == []


def test_nothing_names_a_shard_that_is_written_again(
    begun: ScoreSpec, fingerprint: str, tmp_path: Path
) -> None:
    """Killed after it is written and before it is noted, its old note would be believed."""
    source = Path(begun.dataset) / "00000.tar"
    source.write_bytes(source.read_bytes() + bytes(10240))  # more end of archive: the same pairs
    seen: list[set[str]] = []

    def look(told: Progress) -> bool:
        if told.shards_in_progress:
            seen.append(set(read_segments(begun.output, fingerprint)))
        return bool(seen)

    interrupt(begun, look)
    assert seen == [{"00001.tar"}]


def test_notes_beside_an_index_are_no_strangers_and_go(copied: ScoreSpec, fingerprint: str) -> None:
    noted = Segments(copied.output, fingerprint, lambda: None)
    (first, *_) = survey_of(copied)
    noted.begin([first], ())
    assert len(files(copied)) == 1
    assert verify(copied.output, copied.dataset).ok
    assert score(copied).encoded_shards == 0
    assert files(copied) == []


def survey_of(spec: ScoreSpec) -> list[Any]:
    from rhocache_workers.messages import CommittedShard
    from rhocache_workers.run.standing import Standing

    return [CommittedShard(row, Counter()) for row in Standing.of(spec.output).index.values()]


def test_a_store_that_fails_stops_no_run(
    copied: ScoreSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_SHARDS", 1)
    write = storage.write_atomic

    def failing(uri: str, data: bytes) -> None:
        if "/segments/" in uri:
            raise storage.failure(f"cannot write {uri}", OSError("no reply"))
        write(uri, data)

    monkeypatch.setattr(storage, "write_atomic", failing)
    spec = copied.model_copy(update={"output": str(tmp_path / "new")})
    assert score(spec).encoded_shards == 3
    assert index_of(spec) == index_of(copied)
