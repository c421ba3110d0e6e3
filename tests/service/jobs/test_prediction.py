"""What validating a job predicts, against caches that were really made."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rhocache_schemas.api import Range
from rhocache_schemas.cache.documents import Progress, RunTotals
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_schemas.reference import ReferenceSpec
from rhocache_service.jobs import prediction
from rhocache_service.jobs.kinds import kind_of
from rhocache_service.jobs.prediction import (
    bytes_per_pair,
    predict_bytes,
    predict_pairs,
    sample_density,
)
from rhocache_service.jobs.references import dimension_of
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import open_database
from rhocache_service.settings import Settings

from ..conftest import EXAMPLES

HERE = Source(dataset="here")
GOLDEN = Path(__file__).parents[2] / "schemas" / "cache" / "golden-1"


def test_the_dimension_of_a_reference(reference_folder: Path, tmp_path: Path) -> None:
    assert dimension_of(ReferenceSpec(model=f"local-dir:{reference_folder}")) == 32
    assert dimension_of(ReferenceSpec(model="ViT-B-32", pretrained="openai")) == 512
    assert dimension_of(ReferenceSpec(model="of-our-own", pretrained="x")) is None
    assert dimension_of(ReferenceSpec(model="hf-hub:of/ours")) is None
    assert dimension_of(ReferenceSpec(model=f"local-dir:{tmp_path}")) is None
    for text in ("", "[]", '{"model_cfg": {"embed_dim": "32"}}', "\0"):
        (tmp_path / "open_clip_config.json").write_text(text)
        assert dimension_of(ReferenceSpec(model=f"local-dir:{tmp_path}")) is None


def test_a_real_cache_has_as_many_bytes_as_predicted() -> None:
    cache = CacheReader.open(str(GOLDEN))
    rows = cache.index.values()
    pairs = float(sum(row.rows for row in rows))
    per_pair = bytes_per_pair(cache.manifest.dimension, "float16")
    found = predict_bytes(Range(low=pairs, high=pairs), len(rows), per_pair, per_pair)
    assert found.low <= sum(row.bytes for row in rows) <= found.high


def test_earlier_jobs_tell_how_long_it_takes(tmp_path: Path, reference_folder: Path) -> None:
    """Two jobs with the reference, at 100 and 50 pairs a second."""
    registry = Registry(open_database(Settings(data_dir=tmp_path).registry_url))
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(EXAMPLES / "00000.tar", data)
    spec = ScoreSpec.model_validate(
        {
            "dataset": str(data),
            "output": str(tmp_path / "cache"),
            "reference": {"model": f"local-dir:{reference_folder}"},
            "dtype": "float32",
        }
    )
    score = kind_of(spec)
    new = score.preview(spec, [str(tmp_path)], registry)
    assert (new.dimension, new.dtype, new.bytes_per_pair) == (32, "float32", 2 * 32 * 4 + 40)
    pairs = new.predicted_pairs
    assert (new.pairs, new.predicted_seconds) == (None, None)
    assert new.predicted_bytes.low == pytest.approx(pairs.low * new.bytes_per_pair)
    for rate, reused in ((100.0, 0), (50.0, 0), (5000.0, 7)):  # rows that were there tell nothing
        row = registry.advance(registry.add(spec), JobState.QUEUED)
        row = registry.advance(row, JobState.IN_PROGRESS)
        run = RunTotals(pairs_reused=reused)
        progress = Progress(phase="completed", pairs_per_second=rate, run=run, updated_at=1.0)
        registry.note(row, progress=progress.model_dump(mode="json"))
        registry.advance(registry.advance(row, JobState.FINALIZING), JobState.COMPLETED)
    told = score.preview(spec, [str(tmp_path)], registry)
    assert told.predicted_seconds.model_dump() == pytest.approx(
        {"low": pairs.low / 100, "high": pairs.high / 50}
    )
    several = score.preview(spec.model_copy(update={"captions": 5}), [str(tmp_path)], registry)
    assert several.predicted_bytes.low == told.predicted_bytes.low
    more = several.predicted_bytes.high - told.predicted_bytes.high
    assert more == pytest.approx(pairs.high * 4 * 32 * 4)
    some = score.preview(spec.model_copy(update={"limit": 100}), [str(tmp_path)], registry)
    assert some.predicted_pairs == Range(low=100, high=100)
    assert some.predicted_seconds == Range(low=1, high=2)
    other = spec.model_copy(update={"reference": ReferenceSpec(model="hf-hub:of/ours")})
    told = score.preview(other, [str(tmp_path)], registry)
    assert (told.dimension, told.predicted_seconds, told.predicted_bytes) == (None, None, None)
    registry.close()


def test_shards_that_were_read_are_counted_and_others_guessed_by_their_first_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = next(iter(CacheReader.open(str(GOLDEN)).index.values()))
    first, *others = shards = list_shards(str(EXAMPLES), None)
    read = {first.name: replace(row, rows=10)}
    assert predict_pairs([], {}, None) == Range(low=0, high=0)
    assert predict_pairs([first], read, None) == Range(low=10, high=10)
    counts = {shard.name: sum(1 for _ in ShardReader(shard)) for shard in shards}
    true = 10 + sum(counts[shard.name] for shard in others)
    monkeypatch.setattr(prediction, "_BEGINNING", 500_000)
    found = predict_pairs(shards, read, sample_density(others, HERE))
    assert found is not None
    assert found.low < true < found.high
    assert found.high < 2 * found.low
    monkeypatch.setattr(prediction, "_BEGINNING", 1 << 30)
    whole = sample_density([others[0]], HERE)
    assert predict_pairs([others[0]], {}, whole) == Range(low=(n := counts[others[0].name]), high=n)
    (tmp_path / "rubbish.tar").write_bytes(b"rubbish" * 1000)
    rubbish = list_shards(str(tmp_path), None)
    assert predict_pairs(rubbish, {}, sample_density(rubbish, HERE)) is None
    mixed = [*rubbish, others[0]]
    assert predict_pairs(mixed, {}, sample_density(mixed, HERE)) is not None
