"""The loader: resumes exactly, in this process and in worker processes, on several ranks."""

import os
import subprocess
import sys
from itertools import islice
from multiprocessing import active_children
from pathlib import Path

import open_clip
import pytest
import torch

from rhocache_schemas.dataset.augmentation import Augmentation
from rhocache_schemas.errors import PairMismatch, RowError, TrainingError
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.data.loader import PairLoader, build_loader
from rhocache_trainer.data.open import open_pairs

from ..conftest import PAIRS, SHARDS, MadePair, make_pairs, write_tar

N = SHARDS * PAIRS
TOKENIZER = open_clip.SimpleTokenizer(context_length=12)


def make(
    dataset: Path | str,
    cache: Path | str | None = None,
    *,
    batch_size: int = 2,
    rank: int = 0,
    world_size: int = 1,
    **data,
) -> PairLoader:
    settings = Data(dataset=str(dataset), shuffle_buffer=5, **data)
    return build_loader(
        settings,
        open_pairs(settings, None if cache is None else str(cache)),
        TOKENIZER,
        (8, 8),
        Augmentation(scale=(0.3, 1)),
        batch_size=batch_size,
        seed=3,
        rank=rank,
        world_size=world_size,
    )


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for name in ("image", "tokens", "index", "reference_image", "reference_text"):
            assert torch.equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_resumes_to_the_bit(dataset: Path, cache: Path, workers: int, world_size: int):
    """From steps in the middle and at the end of an epoch, on every rank."""
    indices: list[int] = []
    for rank in range(world_size):
        options = {"rank": rank, "world_size": world_size, "workers": workers}
        loader = make(dataset, cache, **options)
        steps = loader.steps
        assert steps == N // (2 * world_size)
        total = steps + 2
        whole: list[Batch] = []
        states = [loader.state_dict()]
        for batch in islice(loader, total):
            whole.append(batch)
            states.append(loader.state_dict())
        indices += [index for batch in whole[:steps] for index in batch.index.tolist()]
        for step in {0, 1, steps - 1, steps, steps + 1} if workers else range(total):
            resumed = make(dataset, cache, **options)
            resumed.load_state_dict(states[step])
            assert_same(list(islice(resumed, total - step)), whole[step:])
    assert sorted(indices) == list(range(N))


def test_the_state_is_of_plain_values(dataset: Path, tmp_path: Path):
    """A checkpoint holds it, and is read without unpickling objects."""
    for workers in (0, 1):
        loader = make(dataset, workers=workers)
        next(iter(loader))
        torch.save(loader.state_dict(), tmp_path / "state.pt")
        assert torch.load(tmp_path / "state.pt", weights_only=True) == loader.state_dict()


def test_the_global_random_state_is_left_alone(dataset: Path):
    before = torch.get_rng_state()
    next(iter(make(dataset)))
    assert torch.get_rng_state().equal(before)


def test_more_workers_than_batches(dataset: Path):
    """A worker has its turn in some epochs only."""
    loader = make(dataset, batch_size=N, workers=2)
    epochs = [batch.index.tolist() for batch in islice(loader, 3)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)


def test_errors_of_worker_processes_are_those_of_this_one(dataset: Path, cache: Path):
    pairs = make_pairs(1)
    pairs[4].caption = "another"
    write_tar(dataset / "00001.tar", pairs)
    for workers in (0, 1):
        with pytest.raises(PairMismatch, match=r"^shard 00001\.tar, key 0004: the caption is not"):
            list(islice(make(dataset, cache, workers=workers), N // 2))


def test_a_row_error_of_a_worker_process(dataset: Path):
    write_tar(dataset / "00001.tar", [MadePair(p.key, b"no", "x") for p in make_pairs(1)])
    with pytest.raises(RowError, match=r"^shard 00001\.tar, key \d+: not a readable") as caught:
        list(islice(make(dataset, workers=1), N // 2))
    assert caught.value.code == "image_undecodable"


def test_sockets_of_workers_lie_where_their_paths_fit(tmp_path: Path):
    code = (
        "from multiprocessing.connection import Listener\n"
        "from rhocache_trainer.data.loader import _context\n"
        "_context()\n"
        "Listener(family='AF_UNIX').close()"
    )
    folder = tmp_path / ("t" * 100)
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(folder)}, check=True
    )


def test_a_signal_to_the_process_group_leaves_the_workers_at_work(dataset: Path):
    """torchrun signals its ranks' groups; a rank then finishes its step, and needs data for it."""
    others = set(active_children())
    batches = iter(make(dataset, workers=1))
    next(batches)
    (worker,) = set(active_children()) - others
    worker.terminate()
    assert sum(len(batch.index) for batch in islice(batches, N)) == 2 * N
    worker.terminate()
    worker.join()
    assert not worker.is_alive(), "a second one ends it"


def test_too_few_pairs(dataset: Path):
    with pytest.raises(TrainingError, match="24 usable pairs are fewer than batch_size=25"):
        make(dataset, batch_size=25)
