"""The driver with an encoder that embeds nothing: hundreds of shards in a moment."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.documents import Manifest, Progress
from rhocache_schemas.cache.shard_file import OK, ShardRows
from rhocache_schemas.dataset.pair import hash_caption, hash_image
from rhocache_schemas.dataset.shards import Shard
from rhocache_schemas.errors import ShardError, ShardErrorCode
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_workers.cluster import actor_pool
from rhocache_workers.messages import CommittedShard, Description, ShardInProgress, committed_shard
from rhocache_workers.run.driver import score

SHARDS = 300


@pytest.fixture
def null_encoder(scored: ScoreSpec) -> type:
    """Writes 1, 2 or 3 rows for a shard. Can't read every 50th while there is a file ``broken``."""
    fingerprint = Manifest.read(f"{scored.output}/manifest.json").fingerprint

    class NullEncoder:
        def __init__(self, spec: ScoreSpec, threads: int) -> None:
            self._folder = Path(spec.output)

        def load(self, batch_sizes: dict[str, int]) -> Iterator[Description]:
            yield Description(fingerprint, 4, 1.0, None, "cpu", 1, {})

        def encode(
            self, shard: Shard, *, isolate: bool
        ) -> Iterator[ShardInProgress | CommittedShard | ShardError]:
            number = int(Path(shard.name).stem)
            count = number % 3 + 1
            yield ShardInProgress(shard.name, count)
            if number % 50 == 7 and (self._folder.parent / "broken").exists():
                yield ShardError(ShardErrorCode.IO_ERROR, shard.name, "no reply")
                return
            unit = np.full((count, 1, 4), 0.5, np.float16)
            keys, hashes = [str(row) for row in range(count)], [hash_image(b"x")] * count
            rows = ShardRows(
                keys,
                [OK] * count,
                unit,
                unit,
                np.ones(count, np.float32),
                hashes,
                [hash_caption("x")] * count,
            )
            data = shard_file.encode(rows, fingerprint.digest, f"{number:064}")
            path = self._folder / "shards" / f"{shard.name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            yield committed_shard(shard, shard_file.sum_up(data, shard.name)[0], f"{number:064}")

    return NullEncoder


def test_every_shard_is_in_the_index_in_order(
    scored: ScoreSpec,
    null_encoder: type,
    tmp_path: Path,
    ray_address: str,
    monkeypatch: pytest.MonkeyPatch,
    write_tar: Callable,
) -> None:
    monkeypatch.setattr(actor_pool, "EncoderActor", null_encoder)
    names = [f"{number % 7}/{number:05}.tar" for number in range(SHARDS)]
    for name in names:
        write_tar(tmp_path / "dataset" / name, [{"0.jpg": b"x", "0.txt": b"x"}])
    rows = {name: int(Path(name).stem) % 3 + 1 for name in names}
    broken = {name: "io_error" for name in names if int(Path(name).stem) % 50 == 7}
    (tmp_path / "broken").touch()
    dataset, output = str(tmp_path / "dataset"), str(tmp_path / "cache")
    spec = scored.model_copy(update={"dataset": dataset, "output": output, "error_budget": 0.1})

    def committed() -> dict[str, int]:
        table = pq.read_table(tmp_path / "cache" / "index.parquet")
        return dict(zip(table["name"].to_pylist(), table["rows"].to_pylist(), strict=True))

    summary = score(spec)
    whole = {name: rows[name] for name in sorted(rows) if name not in broken}
    assert list(committed().items()) == list(whole.items())
    assert (summary.shards, summary.failed_shards) == (SHARDS - len(broken), len(broken))
    assert summary.rows == summary.ok == sum(whole.values())
    assert Manifest.read(f"{output}/manifest.json").failed_shards == broken
    failures = tmp_path / "cache" / "failures"
    assert {str(f.relative_to(failures)) for f in failures.rglob("*.json")} == {
        f"{name}.json" for name in broken
    }

    (tmp_path / "broken").unlink()
    files = {path: path.stat().st_ino for path in (tmp_path / "cache" / "shards").rglob("*.tar.*")}
    summary = score(spec)
    assert {path: path.stat().st_ino for path in files} == files
    assert list(committed().items()) == [(name, rows[name]) for name in sorted(rows)]
    assert (summary.shards, summary.failed_shards, summary.rows) == (SHARDS, 0, sum(rows.values()))
    assert not list(failures.rglob("*.json"))
    progress = Progress.read(f"{output}/progress.json")
    assert (progress.shards_committed, progress.pairs_done) == (SHARDS, sum(rows.values()))

    (tmp_path / "cache" / "manifest.json").unlink()
    index = (tmp_path / "cache" / "index.parquet").read_bytes()
    score(spec)  # sums up every file
    assert (tmp_path / "cache" / "index.parquet").read_bytes() == index
