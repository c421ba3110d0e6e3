"""The summary against all similarities at once."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from rhocache_schemas.cache import summary
from rhocache_schemas.cache.summary import (
    BINS,
    Rounding,
    ShardRounding,
    ShardSummary,
    ShardSummer,
    summarise,
)


def tables(count: int, rows: int, seed: int = 0) -> dict[str, pa.Table]:
    """Shards of similarities, of which every seventh is missing, and some come twice."""
    random = np.random.default_rng(seed)
    made: dict[str, pa.Table] = {}
    for shard in range(count):
        values = random.normal(0.2, 0.1, rows).astype(np.float32).round(3)
        made[f"{shard:03}"] = pa.table(
            {
                "row": pa.array(np.arange(rows, dtype=np.int32)),
                "key": [f"{shard} {row}" for row in range(rows)],
                "similarity": pa.array(values, mask=np.arange(rows) % 7 == 3),
            }
        )
    return made


def parts(made: dict[str, pa.Table]) -> dict[str, tuple[ShardSummary, int]]:
    found: dict[str, tuple[ShardSummary, int]] = {}
    for name, table in made.items():
        summer = ShardSummer()
        values = table["similarity"].drop_null().to_numpy()
        for part in np.array_split(values, 3):
            summer.update(part)
        found[name] = summer.summary(None), 100
    return found


@pytest.mark.parametrize(("shards", "rows"), [(3, 20), (40, 120)])
def test_it_is_that_of_all_pairs(shards: int, rows: int) -> None:
    made = tables(shards, rows)
    found = summarise(parts(made), lambda name, columns: made[name].select(columns))
    every = np.concatenate([each["similarity"].drop_null().to_numpy() for each in made.values()])
    assert (found.pairs, found.bytes) == (len(every), 100 * shards)
    expected = np.histogram(every.astype(float), np.linspace(-1, 1, BINS + 1))[0]
    assert np.array_equal(found.histogram, expected)
    ordered = np.sort(every)
    assert [pair.similarity for pair in found.lowest] == ordered[:1000].tolist()
    assert [pair.similarity for pair in found.highest] == ordered[::-1][:1000].tolist()
    for pair in (*found.lowest, *found.highest):
        assert pair.key == f"{int(pair.shard)} {pair.row}"
        assert made[pair.shard]["similarity"][pair.row].as_py() == pair.similarity
    assert len({(pair.shard, pair.row) for pair in found.lowest}) == len(found.lowest)
    for share in (0, 0.05, 0.5, 0.9, 1):
        assert found.quantile(share) == pytest.approx(np.quantile(every, share), abs=1.5e-3)


def test_only_shards_that_may_have_one_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 shards apart from each other, for the 5 lowest and highest: those at the ends."""
    monkeypatch.setattr(summary, "KEPT", 5)
    made = {
        f"{number:03}": pa.table(
            {
                "row": pa.array([0, 1], pa.int32()),
                "key": ["a", "b"],
                "similarity": pa.array([number / 500, number / 500 + 0.001], pa.float32()),
            }
        )
        for number in range(400)
    }
    read: Counter[str] = Counter()

    def look(name: str, columns: list[str]) -> pa.Table:
        read[name] += 1
        return made[name].select(columns)

    found = summarise(parts(made), look)
    assert [(pair.shard, pair.key) for pair in found.lowest] == [
        ("000", "a"), ("000", "b"), ("001", "a"), ("001", "b"), ("002", "a"),
    ]  # fmt: skip
    assert found.highest[0].shard == "399"
    assert read.total() <= 2 * 16


def test_a_cache_without_usable_pairs() -> None:
    found = summarise({"a": (ShardSummer().summary(None), 7)}, lambda *_: pytest.fail("read"))
    assert (found.pairs, found.counts, found.lowest, found.quantile(0.5)) == (0, [], [], None)


def test_similarities_at_the_ends_of_the_range() -> None:
    values = np.array([-1, np.nextafter(np.float32(-1), np.float32(-2)), 1, 1.0000001, 0], "f4")
    assert summary.bins(values).tolist() == [0, 0, BINS - 1, BINS - 1, BINS // 2]


def test_rounding_is_summed_up_over_shards_that_were_all_measured() -> None:
    first, second = ShardRounding(100, 1e-4, 3e-4, 5e-4), ShardRounding(300, 2e-4, 2e-4, 9e-4)
    found = Rounding.of([first, second])
    assert found is not None
    assert found.pairs == 400
    assert found.similarity.mean == pytest.approx(1.75e-4)
    assert (found.similarity.p99, found.similarity.max) == (3e-4, 9e-4)
    assert found.logit.max == pytest.approx(0.09)
    assert Rounding.of([first, None]) is None
    assert Rounding.of([]) is None
    total = found.plus(found)
    assert total.similarity.max == pytest.approx(18e-4)
