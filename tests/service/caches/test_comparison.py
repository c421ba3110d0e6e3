"""What two caches of the same data have in common, and where they differ most, against numpy."""

from pathlib import Path

import numpy as np
import pytest
from caches import commit

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.cache.shard_file import ShardRows
from rhocache_service.caches import similarity
from rhocache_service.caches.comparison import compare

SHARDS, ROWS = 12, 40


def random_cache(folder: Path, values: np.ndarray) -> CacheReader:
    vectors = np.full((ROWS, 1, 4), 0.5, np.float16)
    shards = {
        f"{number:02}.tar": ShardRows(
            keys=[f"{number}/{row}" for row in range(ROWS)],
            status=["ok"] * ROWS,
            image=vectors,
            text=vectors,
            similarity=values[number],
            image_hash=[b"image..."] * ROWS,
            caption_hash=[b"caption."] * ROWS,
        )
        for number in range(SHARDS)
    }
    return CacheReader.open(str(commit(folder, shards)))


@pytest.mark.parametrize("read", [SHARDS, 4])
def test_where_two_caches_differ_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: int
) -> None:
    monkeypatch.setattr(similarity, "_SHARDS", read)
    chance = np.random.default_rng(0)
    ours, theirs = chance.uniform(-1, 1, (2, SHARDS, ROWS)).astype(np.float32)
    caches = (random_cache(tmp_path / name, of) for name, of in (("a", ours), ("b", theirs)))
    found = compare(*caches)
    step = SHARDS // read
    assert (found.common, found.shards, found.pairs) == (SHARDS, read, read * ROWS)
    apart = np.abs(ours - theirs)[::step]
    order = np.argsort(-apart, axis=None)[:24]
    expected = [(f"{place // ROWS * step:02}.tar", place % ROWS) for place in order.tolist()]
    assert [(pair.shard, pair.row) for pair, _ in found.differing] == expected
    assert {pair.key for pair, _ in found.differing} == {
        f"{int(shard[:2])}/{row}" for shard, row in expected
    }
    both = np.corrcoef(ours[::step].ravel(), theirs[::step].ravel())[0, 1]
    assert found.correlation == pytest.approx(both, abs=1e-6)
