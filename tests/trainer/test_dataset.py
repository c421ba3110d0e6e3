"""The stream of examples: every pair once an epoch, the same again for the same seed."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from rhocache_schemas.dataset import list_shards
from rhocache_schemas.errors import RowError, TrainingError
from rhocache_trainer import ReferenceCache
from rhocache_trainer.config import Augmentation
from rhocache_trainer.dataset import Example, PairDataset, collate
from rhocache_trainer.pairs import CachedPairs, PlainPairs

from .conftest import PAIRS, SHARDS, MadePair, make_pairs, unit_rows, write_tar

N = SHARDS * PAIRS


def tokenizer(caption: str) -> torch.Tensor:
    return torch.tensor([[ord(character) for character in caption[:12]]])


def make(source, seed: int = 0, threads: int = 2) -> PairDataset:
    return PairDataset(
        source,
        tokenizer,
        (8, 8),
        Augmentation(scale=(0.3, 1)),
        seed=seed,
        shuffle_buffer=7,
        threads=threads,
    )


@pytest.fixture
def plain(dataset: Path) -> PlainPairs:
    return PlainPairs(list_shards(str(dataset)))


def order(examples: list[Example]) -> list[int]:
    return [example.index for example in examples]


def same(one: list[Example], other: list[Example]) -> bool:
    return order(one) == order(other) and all(
        a.image.equal(b.image) and a.tokens.equal(b.tokens) for a, b in zip(one, other, strict=True)
    )


def test_every_pair_once_in_an_order_of_seed_and_epoch(plain: PlainPairs):
    stream = make(plain)
    epochs = [list(stream), list(stream)]
    assert stream.state_dict() == {"epoch": 2, "position": 0}
    for epoch in epochs:
        assert sorted(order(epoch)) == list(range(N))
    assert order(epochs[0]) != order(epochs[1])
    again = make(plain, threads=1)
    assert same(list(again), epochs[0])
    assert same(list(again), epochs[1])
    assert order(list(make(plain, seed=1))) != order(epochs[0])


@pytest.mark.parametrize("position", [0, 1, 9, N - 1, N])
def test_resumes_at_any_position(plain: PlainPairs, position: int):
    whole = make(plain)
    list(whole)
    expected = list(whole)  # epoch 1
    resumed = make(plain)
    resumed.load_state_dict({"epoch": 1, "position": position})
    assert same(list(resumed), expected[position:])
    assert resumed.state_dict() == {"epoch": 2, "position": 0}


def test_position_counts_what_was_given_out_not_what_was_read_ahead(plain: PlainPairs):
    stream = make(plain)
    batches = iter(DataLoader(stream, 5, collate_fn=collate))
    next(batches)
    next(batches)
    assert stream.state_dict() == {"epoch": 0, "position": 10}


def test_batches_carry_the_reference_rows_of_their_pairs(dataset: Path, cache: Path):
    pairs = CachedPairs(list_shards(str(dataset)), ReferenceCache.open(str(cache)))
    for batch in DataLoader(make(pairs), 4, collate_fn=collate):
        assert batch.image.dtype == torch.uint8
        assert batch.image.shape == (4, 3, 8, 8)
        assert batch.tokens.shape == (4, 12)
        for place, index in enumerate(batch.index.tolist()):
            shard, row = divmod(index, PAIRS)
            for which in ("image", "text"):
                expected = torch.from_numpy(unit_rows(shard, which)[row]).float()
                assert getattr(batch, f"reference_{which}")[place].equal(expected)


def test_batches_without_a_cache_have_no_reference(plain: PlainPairs):
    batch = next(iter(DataLoader(make(plain), 4, collate_fn=collate)))
    assert batch.reference_image is batch.reference_text is None


def test_an_image_that_does_not_decode(dataset: Path):
    bad = MadePair("bad", make_pairs(0)[0].image[:200], "half a picture")
    write_tar(dataset / "00000.tar", [*make_pairs(0), bad])
    shards = list_shards(str(dataset))
    with pytest.raises(RowError, match=r"shard 00000\.tar, key bad: not a readable"):
        list(make(PlainPairs(shards)))
    skipping = PlainPairs(shards, on_missing="skip")
    stream = make(skipping)
    assert len(list(stream)) == len(list(stream)) == N
    assert skipping.skipped == {"image_undecodable": 1}


def test_worker_processes_are_refused(plain: PlainPairs):
    with pytest.raises(TrainingError, match="num_workers=0"):
        next(iter(DataLoader(make(plain), 4, collate_fn=collate, num_workers=1)))
