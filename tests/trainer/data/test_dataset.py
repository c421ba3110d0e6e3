"""The stream of batches: every pair once an epoch, the same again for the same seed."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from rhocache_schemas.dataset.augmentation import Augmentation
from rhocache_schemas.dataset.formats.webdataset import WebDataset
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import RowError, ShardError, TrainingError
from rhocache_trainer import ReferenceCache
from rhocache_trainer.data.dataset import Batch, Failure, PairDataset
from rhocache_trainer.data.join import CachedPairs, PlainPairs

from ..conftest import PAIRS, SHARDS, MadePair, make_pairs, unit_rows, write_cache, write_tar

N = SHARDS * PAIRS


def tokenizer(caption: str) -> torch.Tensor:
    return torch.tensor([[ord(character) for character in caption[:12]]])


def make(source, seed: int = 0, batch_size: int = 4, threads: int = 2, **options) -> PairDataset:
    return PairDataset(
        source,
        tokenizer,
        (8, 8),
        Augmentation(scale=(0.3, 1)),
        batch_size=batch_size,
        seed=seed,
        shuffle_buffer=7,
        threads=threads,
        **options,
    )


def tars(dataset: Path) -> WebDataset:
    return WebDataset(Source(dataset=str(dataset)))


@pytest.fixture
def plain(dataset: Path) -> PlainPairs:
    return PlainPairs(tars(dataset))


def order(batches: list[Batch]) -> list[int]:
    return [index for batch in batches for index in batch.index.tolist()]


def take(stream: PairDataset, steps: int) -> list[Batch]:
    return list(islice(stream, steps))


def same(one: list[Batch], other: list[Batch]) -> bool:
    return order(one) == order(other) and all(
        a.image.equal(b.image) and a.tokens.equal(b.tokens) for a, b in zip(one, other, strict=True)
    )


def test_every_pair_once_an_epoch_in_an_order_of_seed_and_epoch(plain: PlainPairs):
    stream = make(plain)
    assert stream.steps == N // 4
    both = take(stream, 2 * stream.steps)
    epochs = [both[: stream.steps], both[stream.steps :]]
    for epoch in epochs:
        assert sorted(order(epoch)) == list(range(N))
    assert order(epochs[0]) != order(epochs[1])
    assert same(take(make(plain, threads=1), 2 * stream.steps), both)
    assert order(take(make(plain, seed=1), stream.steps)) != order(epochs[0])


def test_pairs_that_fill_no_batch_are_left_out(plain: PlainPairs):
    stream = make(plain, batch_size=5)
    assert stream.steps == N // 5
    both = order(take(stream, 2 * stream.steps))
    for epoch in (both[:20], both[20:]):
        assert len(set(epoch)) == 20


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_part_an_epoch_and_do_as_many_steps(plain: PlainPairs, world_size: int):
    ranks = [make(plain, rank=r, world_size=world_size) for r in range(world_size)]
    assert {rank.steps for rank in ranks} == {N // (4 * world_size)}
    given = [index for rank in ranks for index in order(take(rank, rank.steps))]
    assert sorted(given) == list(range(N))


def test_too_few_pairs_for_every_rank(plain: PlainPairs):
    with pytest.raises(TrainingError, match=f"{N} usable pairs are fewer than batch_size=25"):
        make(plain, batch_size=25)
    with pytest.raises(TrainingError, match="batch_size=13 on each of 2 ranks"):
        make(plain, batch_size=13, world_size=2)


@pytest.mark.parametrize("step", range(13))
def test_resumes_at_any_step(plain: PlainPairs, step: int):
    whole = take(make(plain), 13)  # two epochs of six steps, and one more
    begun = make(plain)
    take(begun, step)
    resumed = make(plain)
    resumed.load_state_dict(begun.state_dict())
    assert same(take(resumed, 13 - step), whole[step:])


def test_resumes_where_pairs_are_left_out(dataset: Path, tmp_path: Path):
    """Those that were left out are counted once, whatever stopped in between."""
    cache = write_cache(tmp_path / "failed", {(0, 3): "image_undecodable", (1, 7): "text_missing"})
    pairs = CachedPairs(tars(dataset), ReferenceCache.open(str(cache)), on_missing="skip")
    whole = take(make(pairs, on_missing="skip"), 11)
    counts = [batch.skipped for batch in whole]
    assert sum(count.get("missing-pair", 0) for count in counts) >= 2
    for step in range(11):
        begun, resumed = make(pairs, on_missing="skip"), make(pairs, on_missing="skip")
        take(begun, step)
        resumed.load_state_dict(begun.state_dict())
        rest = take(resumed, 11 - step)
        assert same(rest, whole[step:])
        assert [batch.skipped for batch in rest] == counts[step:]


def test_position_counts_what_was_given_out_not_what_was_read_ahead(plain: PlainPairs):
    stream = make(plain, batch_size=5)
    take(stream, 2)
    assert stream.state_dict() == {"epoch": 0, "batches": 2, "position": 10}


def test_batches_carry_the_reference_rows_of_their_pairs(dataset: Path, cache: Path):
    pairs = CachedPairs(tars(dataset), ReferenceCache.open(str(cache)))
    for batch in take(make(pairs), 6):
        assert batch.image.dtype == torch.uint8
        assert batch.image.shape == (4, 3, 8, 8)
        assert batch.tokens.shape == (4, 12)
        for place, index in enumerate(batch.index.tolist()):
            shard, row = divmod(index, PAIRS)
            for which in ("image", "text"):
                expected = torch.from_numpy(unit_rows(shard, which)[row]).float()
                assert getattr(batch, f"reference_{which}")[place].equal(expected)


def test_batches_without_a_cache_have_no_reference(plain: PlainPairs):
    (batch,) = take(make(plain), 1)
    assert batch.reference_image is batch.reference_text is None


def test_an_image_that_does_not_decode(dataset: Path):
    bad = MadePair("bad", make_pairs(0)[0].image[:200], "half a picture")
    write_tar(dataset / "00000.tar", [*make_pairs(0), bad])
    pairs = PlainPairs(tars(dataset))
    with pytest.raises(RowError, match=r"shard 00000\.tar, key bad: not a readable"):
        take(make(pairs, batch_size=1), N + 1)
    epoch = take(make(pairs, on_missing="skip"), 6)
    assert PAIRS not in order(epoch)
    assert {code for batch in epoch for code in batch.skipped} <= {"image_undecodable"}


def test_a_rank_without_enough_pairs_goes_through_its_own_again(dataset: Path, tmp_path: Path):
    """No other rank waits for it: it has as many steps as they."""
    failed = {(0, row): "image_undecodable" for row in range(PAIRS - 3)}
    cache = write_cache(tmp_path / "failed", failed)
    pairs = CachedPairs(tars(dataset), ReferenceCache.open(str(cache)), on_missing="skip")
    ranks = [
        make(pairs, batch_size=2, on_missing="skip", rank=rank, world_size=2) for rank in range(2)
    ]
    assert [rank.steps for rank in ranks] == [3, 3]
    batches = [take(rank, 3) for rank in ranks]
    poor, rich = sorted(({*order(given)} for given in batches), key=min)
    assert poor <= {*range(PAIRS - 3, PAIRS)}
    assert len(rich) == 6
    assert all(len({*batch.index.tolist()}) == 2 for given in batches for batch in given)


def test_a_rank_without_a_batch_of_usable_pairs_says_so(dataset: Path):
    write_tar(dataset / "00000.tar", [MadePair(p.key, b"no", "x") for p in make_pairs(0)])
    pairs = PlainPairs(tars(dataset))
    ranks = [make(pairs, on_missing="skip", rank=rank, world_size=2) for rank in range(2)]
    with pytest.raises(TrainingError, match=r"12 pairs hold no batch of 4 usable .*undecodable"):
        [take(rank, 1) for rank in ranks]


def test_a_dataset_that_has_lost_its_pairs_since_it_was_counted(dataset: Path, plain: PlainPairs):
    for shard in range(SHARDS):
        write_tar(dataset / f"{shard:05}.tar", [])
    with pytest.raises(TrainingError, match="no pair left where 24 were"):
        take(make(plain), 1)


@pytest.mark.parametrize(
    "error",
    [
        TrainingError("too bad"),
        RowError("image_missing", "key 3"),  # pyright: ignore[reportArgumentType]
        ShardError("io_error", "0.tar", "gone"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_an_error_crosses_process_borders_whole(error):
    back = Failure.of(error).error()
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)
