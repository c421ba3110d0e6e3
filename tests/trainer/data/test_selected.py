"""Training on a selection: what is read, counted and numbered, against the whole list of pairs."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_pairs import N, rows, write_parquet

from rhocache_schemas.dataset.augmentation import Augmentation
from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.errors import DatasetError, InvalidDocument, InvalidInput, MissingPair
from rhocache_trainer.data import dataset as dataset_module
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.dataset import PairDataset
from rhocache_trainer.data.join import PairSource
from rhocache_trainer.data.labelled import LabelledPairs
from rhocache_trainer.data.open import open_pairs

from ..conftest import PAIRS, write_cache

CHOSEN = [("00000.tar", f"{row:04}") for row in (1, 4, 5, 11)] + [
    ("00001.tar", f"{row:04}") for row in (0, 2, 3, 7, 8, 9, 10)
]


def write_list(path: Path, pairs: list[tuple[str, str]], **columns: list[Any]) -> str:
    """In another order than the data's."""
    shards, keys = zip(*reversed(pairs), strict=True)
    pq.write_table(pa.table({"key": keys, "shard": shards} | columns), path)
    return str(path)


def names(pairs: PairSource) -> list[tuple[str, str, int]]:
    loaded = [pairs.load(joined) for shard in pairs.shards for joined in pairs.read(shard)]
    return [(joined.pair.shard, joined.pair.key, joined.index) for joined in loaded]


@pytest.mark.parametrize("cached", [False, True])
def test_of_tars_the_selected_pairs_alone_are_read_counted_and_numbered(
    dataset: Path, cache: Path, tmp_path: Path, cached: bool
) -> None:
    only = write_list(tmp_path / "only.parquet", [*CHOSEN, ("elsewhere.tar", "0000")])
    data = Data(dataset=str(dataset), only=only)
    pairs = open_pairs(data, str(cache) if cached else None)
    assert names(pairs) == [(*name, number) for number, name in enumerate(CHOSEN)]
    assert (pairs.n, pairs.usable, [shard.rows for shard in pairs.shards]) == (11, 11, [4, 7])
    for shard in pairs.shards:
        whole = [joined.pair.key for joined in pairs.read(shard)]
        for start in range(len(whole) + 1):
            assert [joined.pair.key for joined in pairs.read(shard, start)] == whole[start:]


@pytest.mark.parametrize("cached", [False, True])
def test_of_a_table_too(tmp_path: Path, cache: Path, cached: bool) -> None:
    content = rows()
    table = write_parquet(tmp_path / "table" / "pairs.parquet", content)
    only = write_list(tmp_path / "only.parquet", CHOSEN)
    pairs = open_pairs(Data(dataset=str(table), only=only), str(cache) if cached else None)
    read = [pairs.load(joined) for shard in pairs.shards for joined in pairs.read(shard)]
    expected = [row["caption"] for row in content if (row["shard"], row["key"]) in CHOSEN]
    assert [joined.pair.caption for joined in read] == expected
    assert sorted(joined.index for joined in read) == list(range(11))
    assert pairs.n == pairs.usable == 11


def test_a_table_without_shards_is_found_by_keys_unless_they_repeat(tmp_path: Path) -> None:
    content = [{**row, "key": f"{row['shard']}-{row['key']}"} for row in rows()]
    for row in content:
        del row["shard"]
    table = write_parquet(tmp_path / "table" / "pairs.parquet", content)
    unlike = [("x", f"00000.tar-{row:04}") for row in (1, 2)]
    only = write_list(tmp_path / "only.parquet", unlike)
    assert open_pairs(Data(dataset=str(table), only=only), None).n == 2
    only = write_list(tmp_path / "only.parquet", [*unlike, ("y", unlike[0][1])])
    with pytest.raises(InvalidInput, match="one key in several shards"):
        open_pairs(Data(dataset=str(table), only=only), None)


def batches(pairs: PairSource, rank: int, count: int, state: dict[str, int] | None = None):
    made = PairDataset(
        pairs,
        lambda _: dataset_module.torch.zeros(1, 4, dtype=dataset_module.torch.int64),
        (8, 8),
        Augmentation(),
        batch_size=2,
        seed=0,
        shuffle_buffer=16,
        threads=1,
        rank=rank,
        world_size=2,
    )
    if state is not None:
        made.load_state_dict(state)
    stream = iter(made)
    return [next(stream) for _ in range(count)], made.state_dict(), made.steps


def test_epochs_ranks_and_resumption_follow_the_selection(
    dataset: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    monkeypatch.setattr(
        dataset_module, "open_image", lambda image: decoded.append(image) or open_image(image)
    )
    only = write_list(tmp_path / "only.parquet", CHOSEN)
    pairs = open_pairs(Data(dataset=str(dataset), only=only), str(cache))
    seen = []
    for rank in range(2):
        epoch, _, steps = batches(pairs, rank, 2)
        assert steps == 11 // 4
        seen += [(pair.shard, pair.key) for batch in epoch for pair in batch.pairs]
        _, state, _ = batches(pairs, rank, 1)
        resumed, _, _ = batches(pairs, rank, 1, state)
        assert resumed[0].index.tolist() == epoch[1].index.tolist()
    assert len(set(seen)) == len(seen) == 8
    assert set(seen) <= set(CHOSEN)
    assert len(set(decoded)) <= len(CHOSEN), "another picture was decoded"


def test_another_list_is_another_run(dataset: Path, cache: Path, tmp_path: Path) -> None:
    made = []
    for pairs in (CHOSEN, CHOSEN[:-1], [*CHOSEN[:-1], ("00001.tar", "0011")]):
        only = write_list(tmp_path / "only.parquet", pairs)
        made.append(open_pairs(Data(dataset=str(dataset), only=only), str(cache)).identity)
    assert len(set(made)) == 3


def test_rows_that_a_column_does_not_select_are_left_out(dataset: Path, tmp_path: Path) -> None:
    only = write_list(
        tmp_path / "only.parquet", CHOSEN, selected=[place < 3 for place in range(11)]
    )
    assert open_pairs(Data(dataset=str(dataset), only=only), None).n == 3


def test_a_selected_pair_without_embeddings_is_none_of_the_usable(
    dataset: Path, tmp_path: Path
) -> None:
    cache = write_cache(tmp_path / "damaged", {(0, 4): "image_undecodable"})
    only = write_list(tmp_path / "only.parquet", CHOSEN)
    assert open_pairs(Data(dataset=str(dataset), only=only), str(cache)).n == 10
    whole = open_pairs(Data(dataset=str(dataset)), str(cache))
    with pytest.raises(MissingPair):
        names(whole)
    assert (whole.n, whole.usable) == (N, N - 1)


def test_of_a_labelled_dataset_too(dataset: Path, tmp_path: Path) -> None:
    only = write_list(tmp_path / "only.parquet", CHOSEN)
    data = Data(dataset=str(dataset), caption_field="colour", only=only)
    pairs = LabelledPairs(data, "text", None)
    assert names(pairs) == [(*name, number) for number, name in enumerate(CHOSEN)]
    assert (pairs.n, pairs.usable, [shard.rows for shard in pairs.shards]) == (11, 11, [4, 7])
    for shard in pairs.shards:
        whole = [joined.index for joined in pairs.read(shard)]
        assert [joined.index for joined in pairs.read(shard, 2)] == whole[2:]
        assert pairs.numbers(shard).tolist() == whole
    assert (
        pairs.identity
        != LabelledPairs(data.model_copy(update={"only": None}), "text", None).identity
    )


def test_what_is_no_selection_of_these_pairs_is_told(dataset: Path, tmp_path: Path) -> None:
    def opened(place: str) -> PairSource:
        return open_pairs(Data(dataset=str(dataset), only=place), None)

    with pytest.raises(DatasetError, match=rf"selects none of the {2 * PAIRS} pairs"):
        opened(write_list(tmp_path / "other.parquet", [("other.tar", "0001")]))
    with pytest.raises(InvalidInput, match=r"empty\.parquet selects no pair"):
        opened(write_list(tmp_path / "empty.parquet", CHOSEN, selected=[False] * 11))
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "keys.parquet")
    with pytest.raises(InvalidDocument, match=r"keys\.parquet has no column shard; it has key"):
        opened(str(tmp_path / "keys.parquet"))
    (tmp_path / "text").write_text("no table")
    with pytest.raises(InvalidInput, match="text is no table and no readable Parquet file"):
        opened(str(tmp_path / "text"))
