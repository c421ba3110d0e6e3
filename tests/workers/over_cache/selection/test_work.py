"""Selections of a cache, against the rules applied by hand to its embeddings."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from caches import FINGERPRINT, commit, in_shards

from rhocache_schemas.errors import (
    CacheNotFound,
    FingerprintMismatch,
    InvalidDocument,
    InvalidInput,
    MissingPair,
    RhocacheError,
    TableMismatch,
)
from rhocache_schemas.job.kinds.neighbours import NeighboursSpec
from rhocache_schemas.job.kinds.select import SelectSpec
from rhocache_schemas.table.documents import TableManifest
from rhocache_schemas.table.reader import TableReader
from rhocache_schemas.table.selection import Selection
from rhocache_workers.over_cache.driver import make_table
from rhocache_workers.over_cache.neighbours.work import Neighbours
from rhocache_workers.over_cache.selection.scores import neg_clip_loss, norm_sim
from rhocache_workers.over_cache.selection.work import Select

D = 8
SIZES = {"a.tar": 30, "empty.tar": 0, "sub/b.tar": 50, "c.tar": 40}
N = sum(SIZES.values())
BAD = [4, 30, 119]
KEYS = [(shard, f"{row:03}") for shard, rows in SIZES.items() for row in range(rows)]
USABLE = np.array([number for number in range(N) if number not in BAD])


def embeddings(seed: int, n: int = N) -> np.ndarray:
    random = np.random.default_rng(seed)
    made = random.standard_normal((4, D))[random.integers(0, 4, n)]
    made += 0.4 * random.standard_normal((n, D))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


IMAGE, TEXT = embeddings(0), embeddings(1)
SIMILARITY = (IMAGE.astype(np.float32) * TEXT).sum(1)


def make_cache(folder: Path, image: np.ndarray = IMAGE, **manifest: Any) -> Path:
    return commit(folder, in_shards(image, TEXT, SIZES, BAD), **manifest)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return make_cache(tmp_path / "cache")


def select(cache: Path, output: Path, **options: Any) -> TableManifest:
    spec = SelectSpec.model_validate({"cache": str(cache), "output": str(output)} | options)
    return make_table(spec, Select, here=True)


def rows_of(output: Path) -> list[dict[str, Any]]:
    table = TableReader.open(str(output))
    rows = [row for _, part in table.columns_of_all(None) for row in part.to_pylist()]
    assert [(row["shard"], row["key"]) for row in rows] == KEYS
    return rows


def chosen(output: Path) -> list[int]:
    return [number for number, row in enumerate(rows_of(output)) if row["selected"]]


def counted(made: TableManifest) -> list[list[Any]]:
    (rules,) = made.summary.samples
    return rules.rows


def test_conditions_apply_one_after_another(cache: Path, tmp_path: Path) -> None:
    where = ["similarity=-0.2:", "similarity=q0.3:q0.9"]
    made = select(cache, tmp_path / "out", where=where)
    first = USABLE[SIMILARITY[USABLE] >= np.float32(-0.2)]
    low, high = np.quantile(SIMILARITY[first].astype(float), [0.3, 0.9])
    expected = first[(SIMILARITY[first] >= low) & (SIMILARITY[first] <= high)].tolist()
    assert chosen(tmp_path / "out") == expected
    assert counted(made) == [
        ["similarity=-0.2:", len(USABLE) - len(first), len(first)],
        ["similarity=q0.3:q0.9", len(first) - len(expected), len(expected)],
    ]
    removed = [row["removed_by"] for row in rows_of(tmp_path / "out")]
    for number in range(N):
        if number in BAD or number in expected:
            assert removed[number] is None
        else:
            assert removed[number] == where[number in first]
    assert made.summary.facts["selected"] == len(expected)


def test_neg_clip_loss_and_norm_sim_are_of_the_pairs_that_are_left(
    cache: Path, tmp_path: Path
) -> None:
    target = make_cache(tmp_path / "target", embeddings(5))
    where = ["similarity=q0.2:", "negcliploss=q0.5:", "normsim=q0.5:"]
    options = {"where": where, "target": str(target), "batch": 20, "batches": 3, "seed": 7}
    select(cache, tmp_path / "out", **options, norm="2")
    left = USABLE[SIMILARITY[USABLE] >= np.quantile(SIMILARITY[USABLE].astype(float), 0.2)]
    loss = neg_clip_loss(IMAGE, TEXT, left, tau=0.1, batch=20, batches=3, seed=7)
    rows = rows_of(tmp_path / "out")
    assert [rows[number]["negcliploss"] for number in left] == pytest.approx(loss, abs=1e-6)
    assert rows[BAD[0]]["negcliploss"] is None
    left = left[loss >= np.quantile(loss, 0.5)]
    near = norm_sim(IMAGE, left, [embeddings(5)[USABLE]], "2")
    assert [rows[number]["normsim"] for number in left] == pytest.approx(near)
    assert chosen(tmp_path / "out") == left[near >= np.quantile(near, 0.5)].tolist()
    assert Selection.read(str(tmp_path / "out")).sha256


def test_columns_of_tables_and_of_other_peoples_files(cache: Path, tmp_path: Path) -> None:
    delta = np.random.default_rng(3).standard_normal(N)
    order = np.random.default_rng(4).permutation(N)[20:]  # some are missing
    pq.write_table(
        pa.table(
            {
                "delta": delta[order],
                "key": [KEYS[number][1] for number in order],
                "shard": [KEYS[number][0] for number in order],
            }
        ),
        tmp_path / "delta.parquet",
    )
    select(cache, tmp_path / "out", where=["delta=0:"], table=str(tmp_path / "delta.parquet"))
    known = [number for number in USABLE.tolist() if number in order]
    assert chosen(tmp_path / "out") == [number for number in known if delta[number] >= 0]
    neighbours = NeighboursSpec(cache=str(cache), output=str(tmp_path / "near"), k=1)
    make_table(neighbours, Neighbours, here=True)
    select(cache, tmp_path / "next", where=["nearest=:q0.5"], table=str(tmp_path / "near"))
    cosines = IMAGE[USABLE].astype(float) @ IMAGE[USABLE].astype(float).T
    np.fill_diagonal(cosines, -9)
    nearest = cosines.max(1)
    assert chosen(tmp_path / "next") == USABLE[nearest <= np.median(nearest)].tolist()


def test_of_near_duplicates_the_most_similar_stays(cache: Path, tmp_path: Path) -> None:
    near = NeighboursSpec(cache=str(cache), output=str(tmp_path / "near"), threshold=0.95)
    groups = make_table(near, Neighbours, here=True).summary.facts
    made = select(cache, tmp_path / "out", duplicates=str(tmp_path / "near"))
    assert counted(made) == [
        ["duplicates", groups["near-duplicates"], len(USABLE) - groups["near-duplicates"]]
    ]
    kept = set(chosen(tmp_path / "out"))
    table = TableReader.open(str(tmp_path / "near"))
    members: dict[int, list[int]] = {}
    for row in pq.read_table(pa.BufferReader(table.file("groups.parquet"))).to_pylist():
        members.setdefault(row["group"], []).append(KEYS.index((row["shard"], row["key"])))
    for each in members.values():
        assert kept & set(each) == {max(each, key=lambda number: SIMILARITY[number])}


def test_clusters_are_balanced_and_a_seed_is_a_sample(cache: Path, tmp_path: Path) -> None:
    options = {"size": 40, "clusters": 4, "exponent": 0}
    for name, seed in (("one", 1), ("same", 1), ("two", 2)):
        select(cache, tmp_path / name, **options, seed=seed)
    one, same, two = (chosen(tmp_path / name) for name in ("one", "same", "two"))
    assert len(one) == len(two) == 40
    assert one == same != two
    rows = rows_of(tmp_path / "one")
    sizes = np.bincount([rows[number]["cluster"] for number in USABLE])
    taken = np.bincount([rows[number]["cluster"] for number in one])
    assert taken.max() - taken[taken < sizes].min() <= 1
    made = select(cache, tmp_path / "plain", size=40)
    assert counted(made) == [["size", len(USABLE) - 40, 40]]


def test_a_selection_is_chosen_from_another(cache: Path, tmp_path: Path) -> None:
    select(cache, tmp_path / "first", size=60)
    made = select(cache, tmp_path / "out", only=str(tmp_path / "first"), where=["similarity=q0.5:"])
    first = np.array(chosen(tmp_path / "first"))
    median = np.median(SIMILARITY[first].astype(float))
    assert chosen(tmp_path / "out") == first[SIMILARITY[first] >= median].tolist()
    assert counted(made)[0] == ["only", len(USABLE) - 60, 60]


def write_uids(folder: Path, without: str | None = None, uid: str = "{:032x}") -> None:
    for shard in SIZES:
        path = folder / f"{shard.removesuffix('.tar')}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        keys = [key for name, key in KEYS if name == shard and key != without]
        numbers = [KEYS.index((shard, key)) for key in keys]
        uids = [uid.format((997 * number) << 60) for number in numbers]
        table = {"key": pa.array(keys, pa.string()), "uid": pa.array(uids, pa.string())}
        pq.write_table(pa.table(table), path)


def test_uids_are_what_the_resharder_of_datacomp_reads(cache: Path, tmp_path: Path) -> None:
    write_uids(tmp_path / "metadata")
    options = {"where": ["similarity=q0.5:"], "uids": str(tmp_path / "metadata")}
    select(cache, tmp_path / "out", **options)
    found = np.load(tmp_path / "out" / "files" / "uids.npy")
    assert found.dtype == np.dtype("u8,u8")
    numbers = [(997 * number) << 60 for number in chosen(tmp_path / "out")]
    assert [(int(high) << 64) + int(low) for high, low in found] == sorted(numbers)


def refused(cache: Path, output: Path, error: type[RhocacheError], match: str, **options: Any):
    with pytest.raises(error, match=match):
        select(cache, output, **options)
    assert not (output / "table.json").exists()


def test_what_cannot_be_selected_is_told_in_one_error(cache: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "out", tmp_path / "table.parquet"
    pq.write_table(pa.table({"shard": ["x"], "key": ["y"], "delta": [0.1], "word": ["a"]}), table)
    near = tmp_path / "near"
    make_table(NeighboursSpec(cache=str(cache), output=str(near)), Neighbours, here=True)
    other = make_cache(tmp_path / "other", embeddings(9))
    refused(cache, out, InvalidInput, "a selection needs a rule")
    refused(cache, out, InvalidInput, "'delta' is none of similarity", where=["delta=0:"])
    refused(cache, out, InvalidInput, "normsim needs a target", where=["normsim=q0.5:"])
    refused(cache, out, InvalidInput, "clusters need a size", clusters=4)
    refused(cache, out, InvalidInput, "200 clusters of 117 pairs", clusters=200, size=3)
    refused(
        cache, out, InvalidInput, r"the rule similarity=2.0: leaves no pair of the 117",
        where=["similarity=2:"],
    )  # fmt: skip
    refused(
        cache, out, InvalidDocument, r"has no column loss; it has shard, key, delta, word",
        where=["loss=0:"], table=str(table),
    )  # fmt: skip
    refused(
        cache, out, InvalidInput, "has none of the usable pairs of", where=["delta=0:"],
        table=str(table),
    )  # fmt: skip
    refused(
        cache, out, InvalidInput, "has no column 'loss'; its kind is neighbours",
        where=["loss=0:"], table=str(near),
    )  # fmt: skip
    refused(
        cache, out, InvalidInput, "column neighbours of .* holds list", where=["neighbours=0:"],
        table=str(near),
    )  # fmt: skip
    refused(cache, out, InvalidInput, "has no groups of near-dup", duplicates=str(near))
    refused(cache, out, CacheNotFound, "there is no table at", duplicates=str(tmp_path / "no"))
    refused(
        other, out, TableMismatch, "was made from another cache", where=["nearest=0:"],
        table=str(near),
    )  # fmt: skip
    refused(other, out, TableMismatch, "was made from another cache", duplicates=str(near))
    fingerprint = FINGERPRINT.model_copy(update={"weights_sha256": "1" * 64})
    digest = {"fingerprint": fingerprint, "fingerprint_sha256": fingerprint.digest}
    target = make_cache(tmp_path / "target", **digest)
    refused(
        cache, out, FingerprintMismatch, "weights_sha256 differs", where=["normsim=q0.5:"],
        target=str(target),
    )  # fmt: skip
    write_uids(tmp_path / "some", without="001")
    refused(
        cache, out, MissingPair, "lacks 1 pairs of a.tar, such as key 001", size=117,
        uids=str(tmp_path / "some"),
    )  # fmt: skip
    write_uids(tmp_path / "words", uid="uid-{}")
    refused(cache, out, InvalidDocument, "uid-0 is no uid", size=117, uids=str(tmp_path / "words"))
