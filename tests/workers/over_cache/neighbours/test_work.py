"""Tables of neighbours made from caches, against the whole matrix of their embeddings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caches import commit, in_shards
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.shard_file import OK, ShardRows
from rhocache_schemas.errors import JobError
from rhocache_schemas.job.kinds.neighbours import NeighboursSpec
from rhocache_schemas.table import files
from rhocache_schemas.table.documents import TableManifest
from rhocache_schemas.table.reader import TableReader
from rhocache_workers.over_cache import driver
from rhocache_workers.over_cache.neighbours import work
from rhocache_workers.over_cache.neighbours.work import Neighbours

D = 12
SIZES = {"a.tar": 40, "empty.tar": 0, "sub/b.tar": 70, "c.tar": 1, "d.tar": 30}
N = sum(SIZES.values())
BAD = {3, 41, 110}  # rows of the cache that are not ok


def embeddings(seed: int) -> np.ndarray:
    """Near eight centres, and some of them equal."""
    random = np.random.default_rng(seed)
    made = random.standard_normal((8, D))[random.integers(0, 8, N)]
    made += 0.2 * random.standard_normal((N, D))
    made[7] = made[60] = made[139]
    made[[3, 41]] = made[7]
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


IMAGE, TEXT = embeddings(0), embeddings(1)
KEYS = [(shard, f"{row:03}", row) for shard, rows in SIZES.items() for row in range(rows)]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return commit(tmp_path / "cache", in_shards(IMAGE, TEXT, SIZES, BAD))


def make(cache: Path, output: Path, **options: Any) -> TableManifest:
    spec = NeighboursSpec(cache=str(cache), output=str(output), **options)
    return driver.make_table(spec, Neighbours, here=True)


def cosines(queries: np.ndarray, base: np.ndarray) -> np.ndarray:
    """NaN for what is not ok, and for a pair with itself."""
    found = queries.astype(np.float64) @ base.astype(np.float64).T
    np.fill_diagonal(found, np.nan)
    found[list(BAD)] = found[:, list(BAD)] = np.nan
    return found


@pytest.mark.parametrize(
    ("compare", "sides"),
    [
        ("images", (IMAGE, IMAGE)),
        ("texts", (TEXT, TEXT)),
        ("images-to-texts", (IMAGE, TEXT)),
        ("texts-to-images", (TEXT, IMAGE)),
    ],
)
@pytest.mark.parametrize("options", [{}, {"k": 3}, {"threshold": 0.9}, {"k": 2, "threshold": 0.9}])
def test_the_nearest_of_each_pair_are_those_of_the_whole_matrix(
    cache: Path, tmp_path: Path, compare: str, sides: Any, options: dict[str, Any]
) -> None:
    made = make(cache, tmp_path / "table", compare=compare, **options)
    table = TableReader.open(str(tmp_path / "table"))
    rows = [row for _, part in table.columns_of_all(None) for row in part.to_pylist()]
    assert [(row["shard"], row["key"], row["row"]) for row in rows] == KEYS
    expected = cosines(*sides)
    k = options.get("k") or (N if "threshold" in options else 10)
    for number, row in enumerate(rows):
        if number in BAD:
            assert row["neighbours"] is row["nearest"] is None
            continue
        order = np.argsort(-np.nan_to_num(expected[number], nan=-9))
        order = order[expected[number, order] >= options.get("threshold", -1)][:k]
        found = [KEYS.index((o["shard"], o["key"], o["row"])) for o in row["neighbours"]]
        similarity = [other["similarity"] for other in row["neighbours"]]
        np.testing.assert_allclose(similarity, expected[number, order], atol=1e-6)
        np.testing.assert_allclose(expected[number, found], expected[number, order], atol=1e-6)
        assert len(set(found)) == len(found)
        assert row["nearest"] == (similarity[0] if similarity else None)
    near = sum(bool(row["neighbours"]) for row in rows)
    facts = made.summary.facts
    assert (facts["pairs"], facts["with neighbours"], facts["index"]) == (N, near, "flat")


def test_groups_are_the_components_of_what_lies_above_the_threshold(
    cache: Path, tmp_path: Path
) -> None:
    made = make(cache, tmp_path / "table", threshold=0.93)
    table = TableReader.open(str(tmp_path / "table"))
    groups = files.decode(table.file(work.GROUPS), None, "groups").to_pylist()
    _, label = connected_components(csr_array(np.nan_to_num(cosines(IMAGE, IMAGE)) >= 0.93))
    expected = [np.flatnonzero(label == each).tolist() for each in np.unique(label)]
    expected = sorted(each for each in expected if len(each) > 1)
    found: dict[int, list[int]] = {}
    for row in groups:
        number = KEYS.index((row["shard"], row["key"], row["row"]))
        found.setdefault(row["group"], []).append(number)
    assert [found[each] for each in range(len(found))] == expected
    assert any({7, 60, 139} <= set(each) for each in expected)
    facts = made.summary.facts
    sizes = list(map(len, expected))
    assert (facts["groups"], facts["in groups"]) == (len(sizes), sum(sizes))
    assert facts["largest group"] == max(sizes)
    assert facts["near-duplicates"] == sum(sizes) - len(sizes)
    nearest, largest = made.summary.samples
    assert {tuple(row[:3]) for row in nearest.rows[:2]} | {
        tuple(row[3:6]) for row in nearest.rows[:2]
    } == {KEYS[number] for number in (7, 60, 139)}
    of_first = [row for row in largest.rows if row[0] == largest.rows[0][0]]
    assert [row[1] for row in of_first] == [max(sizes)] * min(8, max(sizes))
    assert [KEYS.index(tuple(row[2:])) for row in of_first] == found[of_first[0][0]][:8]


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_approximate_table_says_how_much_it_found(
    cache: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_MEASURED", 50)
    exact = make(cache, tmp_path / "exact", k=5)
    made = make(cache, tmp_path / "table", k=5, index=kind)
    assert made.summary.facts["recall"] > 0.9
    assert "recall" not in exact.summary.facts
    assert made.summary.facts["index"] == kind


def test_a_large_cache_is_searched_by_an_index(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_FLAT", 100)
    assert make(cache, tmp_path / "table").summary.facts["index"] == "ivf"


def test_groups_of_shards_and_blocks_are_no_part_of_the_result(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(cache, tmp_path / "whole", k=4)
    monkeypatch.setattr(work, "_BLOCK", 20)
    monkeypatch.setattr(Neighbours, "rows_at_once", 1)
    make(cache, tmp_path / "parts", k=4)
    tables = [TableReader.open(str(tmp_path / name)) for name in ("whole", "parts")]
    for shard in SIZES:
        one, other = (table.columns(shard, ["key", "nearest"]).to_pydict() for table in tables)
        assert one["key"] == other["key"]
        assert one["nearest"] == pytest.approx(other["nearest"], abs=1e-6)


def test_an_interrupted_run_goes_on_with_the_shards_that_are_left(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "table"
    first = make(cache, output, k=4)
    storage.delete(layout.table_manifest(str(output)))
    storage.delete(layout.shard_file(str(output), "c.tar"))
    asked: list[str] = []
    rows_of = Neighbours.rows_of
    monkeypatch.setattr(
        Neighbours, "rows_of", lambda self, shards: asked.extend(shards) or rows_of(self, shards)
    )
    again = make(cache, output, k=4)
    assert asked == ["c.tar"]
    assert again.index_sha256 == first.index_sha256
    assert again.summary == first.summary


def test_one_pair_has_no_neighbours(tmp_path: Path) -> None:
    row = IMAGE[:1, None]
    rows = ShardRows(["a"], [OK], row, row, np.ones(1, np.float32), [None], [None])
    cache = commit(tmp_path / "cache", {"a.tar": rows})
    with pytest.raises(JobError, match="has 1 usable pairs; neighbours are of two"):
        make(cache, tmp_path / "table")
