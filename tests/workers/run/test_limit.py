"""A job that is a try: the first pairs alone, and later all of them."""

from collections.abc import Callable
from pathlib import Path

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.shard_file import read_columns
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.maintain.verify import verify
from rhocache_workers.run.driver import score


def limited(spec: ScoreSpec, pairs: int | None) -> ScoreSpec:
    return spec.model_copy(update={"limit": pairs})


def statuses(spec: ScoreSpec, shard: str) -> list[str]:
    uri = f"{spec.output}/shards/{shard}.parquet"
    return read_columns(uri, ["status"])["status"].cast("string").to_pylist()


def test_the_first_pairs_alone(spec: ScoreSpec, crew_here: None) -> None:
    tried = score(limited(spec, 10))
    assert (tried.rows, tried.failed, tried.shards) == (10, 0, 2)
    assert statuses(spec, "00000.tar") == ["ok"] * 8
    assert statuses(spec, "00001.tar") == ["ok"] * 2 + ["over_limit"] * 6
    assert Manifest.read(f"{spec.output}/manifest.json").failed_by_code == {"over_limit": 6}
    assert verify(spec.output, spec.dataset).findings == []
    assert score(limited(spec, 10)).encoded_shards == 0


def test_more_of_them_and_all_are_what_they_had_been_at_once(
    spec: ScoreSpec, scored_here: Callable[[ScoreSpec], ScoreSpec], crew_here: None
) -> None:
    score(limited(spec, 10))
    assert score(limited(spec, 11)).encoded_shards == 1
    assert score(limited(spec, 1000)).encoded_shards == 2
    whole = score(spec)
    assert (whole.rows, whole.encoded_shards) == (24, 0)
    for file in Path(scored_here(spec).output, "shards").iterdir():
        assert file.read_bytes() == Path(spec.output, "shards", file.name).read_bytes()
