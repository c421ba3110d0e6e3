"""What validating a job predicts, against caches that were really made."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rhocache_schemas.api import Range
from rhocache_schemas.cache.documents import Progress
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.spec import JobState
from rhocache_schemas.reference import ReferenceSpec
from rhocache_service.jobs.kinds import kind_of
from rhocache_service.jobs.prediction import bytes_per_pair, predict_bytes, predict_pairs
from rhocache_service.jobs.references import dimension_of
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import open_database
from rhocache_service.settings import Settings

from ..conftest import EXAMPLES

GOLDEN = Path(__file__).parents[2] / "schemas" / "cache" / "golden"


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
    found = predict_bytes(Range(low=pairs, high=pairs), len(rows), per_pair)
    assert found.low <= sum(row.bytes for row in rows) <= found.high


def test_earlier_jobs_tell_how_long_it_takes(tmp_path: Path, reference_folder: Path) -> None:
    """Two jobs with the reference, at 100 and 50 pairs a second; of the dataset half is new."""
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
    (shard,) = list_shards(spec.dataset, None)
    score = kind_of(spec)
    new = score.preview(spec, [str(tmp_path)], registry)
    assert (new.dimension, new.dtype, new.bytes_per_pair) == (32, "float32", 2 * 32 * 4 + 24)
    assert (new.predicted_seconds, new.predicted_bytes) == (None, None)
    for rate in (100.0, 50.0):
        done = spec.model_copy(update={"output": str(GOLDEN)})
        row = registry.advance(registry.add(done), JobState.QUEUED)
        row = registry.advance(row, JobState.IN_PROGRESS)
        progress = Progress(phase="completed", pairs_per_second=rate, updated_at=1.0)
        registry.note(row, progress=progress.model_dump(mode="json"))
        registry.advance(registry.advance(row, JobState.FINALIZING), JobState.COMPLETED)
    index = CacheReader.open(str(GOLDEN)).index.values()
    density = sum(row.rows for row in index) / sum(row.source_size for row in index)
    told = score.preview(spec, [str(tmp_path)], registry)
    pairs = shard.size * density
    assert told.predicted_seconds.model_dump() == pytest.approx(
        {"low": pairs / 100, "high": pairs / 50}
    )
    assert told.predicted_bytes.low == pytest.approx(pairs * told.bytes_per_pair)
    other = spec.model_copy(update={"reference": ReferenceSpec(model="hf-hub:of/ours")})
    told = score.preview(other, [str(tmp_path)], registry)
    assert (told.dimension, told.predicted_seconds, told.predicted_bytes) == (None, None, None)
    registry.close()


def test_shards_that_were_read_are_counted_and_not_guessed() -> None:
    row = next(iter(CacheReader.open(str(GOLDEN)).index.values()))
    first, *others = list_shards(str(EXAMPLES), None)
    read = {first.name: replace(row, rows=10, source_size=1000)}
    assert predict_pairs([], {}, []) == Range(low=0, high=0)
    assert predict_pairs([first], {}, []) is None
    assert predict_pairs([first], read, []) == Range(low=10, high=10)
    guessed = 10 + sum(shard.size for shard in others) / 100
    assert predict_pairs([first, *others], read, []) == Range(low=guessed, high=guessed)
