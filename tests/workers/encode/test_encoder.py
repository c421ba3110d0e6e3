"""An encoder in this process: the same class that the driver makes an actor."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tenacity import wait_none

from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.dataset.shards import list_shards
from rhocache_schemas.errors import ShardError, ShardErrorCode
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.encode import encoder as module
from rhocache_workers.encode.encoder import Encoder
from rhocache_workers.messages import CommittedShard


@pytest.fixture
def encoder(spec: ScoreSpec, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setattr(module, "wait_random_exponential", lambda **_: wait_none())
    made = Encoder(spec, threads=1)
    *_, _ = made.load({})
    return made


def failing(times: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the storage fail after 5 pairs, so many times; gives the rows where it did."""
    failures: list[int] = []
    read = ShardReader.__iter__

    def flaky(self: ShardReader) -> Iterator[Pair]:
        for pair in read(self):
            if pair.row == 5 and len(failures) < times:
                failures.append(pair.row)
                raise ShardError(ShardErrorCode.IO_ERROR, self.shard.name, "connection reset")
            yield pair

    monkeypatch.setattr(ShardReader, "__iter__", flaky)
    return failures


def test_a_shard_whose_storage_failed_is_read_again(
    encoder: Encoder, spec: ScoreSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = list_shards(spec.dataset)[0]
    file = Path(spec.output, "shards", "00000.tar.parquet")
    *_, undisturbed = encoder.encode(shard)
    data = file.read_bytes()
    file.unlink()
    failures = failing(2, monkeypatch)
    *_, again = encoder.encode(shard)
    assert isinstance(undisturbed, CommittedShard)
    assert isinstance(again, CommittedShard)
    assert (len(failures), again.index) == (2, undisturbed.index)
    assert file.read_bytes() == data


def test_storage_that_goes_on_failing_is_the_shards_error(
    encoder: Encoder, spec: ScoreSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = failing(10, monkeypatch)
    *_, outcome = encoder.encode(list_shards(spec.dataset)[0])
    assert isinstance(outcome, ShardError)
    assert (outcome.code, len(failures)) == (ShardErrorCode.IO_ERROR, 3)
    assert list(Path(spec.output).rglob("*")) == [Path(spec.output, "shards")]


def test_the_summary_tells_the_stages(encoder: Encoder, spec: ScoreSpec) -> None:
    *_, outcome = encoder.encode(list_shards(spec.dataset)[0])
    assert isinstance(outcome, CommittedShard)
    assert set(outcome.stages.seconds) == {"read", "decode", "image", "text", "write"}
    assert 0 < outcome.stages.shares()["image"] <= 1
