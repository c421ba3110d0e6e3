"""A DataLoader of a run's batches: its state is exact in the middle of an epoch."""

import multiprocessing
import multiprocessing.util
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from rhocache_schemas import network
from rhocache_schemas.dataset.augmentation import Augmentation
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.dataset import Batch, Failure, PairDataset, Tokenizer
from rhocache_trainer.data.join import PairSource
from rhocache_trainer.data.replay import Replay, Turns


class PairLoader(StatefulDataLoader[Any]):
    """Batches without end, ``steps`` of them an epoch. Iterate over it once.

    ``state_dict`` tells where the batches that were taken end; after ``load_state_dict``, on the
    same rank with as many ranks and workers, iterating gives what would have come next. Raises what
    the PairDataset does, from worker processes too.
    """

    dataset: PairDataset

    @property
    def steps(self) -> int:
        return self.dataset.steps

    def start_at(self, epoch: int) -> None:
        """Begin with this epoch; before it is iterated over."""
        self.dataset.load_state_dict({"epoch": epoch, "batches": 0, "position": 0})

    def close(self) -> None:
        """End the worker processes. An iterator that an error's traceback holds would not."""
        end = getattr(self._iterator, "_shutdown_workers", None)
        if end is not None:
            end()

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        for batch in super().__iter__():
            if isinstance(batch, Failure):
                raise batch.error()
            yield batch


def build_loader(
    data: Data,
    pairs: PairSource,
    tokenizer: Tokenizer | None,
    image_size: tuple[int, int] | None,
    augmentation: Augmentation,
    replay: Replay | None = None,
    turns: Turns | None = None,
    *,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> PairLoader:
    """Make the loader of one rank, which gives ``batch_size`` pairs a step.

    ``data.workers`` processes, or this one where it is 0, each read and decode a share of the
    rank's pairs in ``data.threads`` threads. Raises TrainingError where there are too few pairs.
    """
    dataset = PairDataset(
        pairs,
        tokenizer,
        image_size,
        augmentation,
        replay,
        turns,
        batch_size=batch_size,
        seed=seed,
        shuffle_buffer=data.shuffle_buffer,
        threads=data.threads,
        on_missing=data.on_missing,
        rank=rank,
        world_size=world_size,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "'set_vital' is deprecated"
        )  # which torchdata still calls
        return PairLoader(
            dataset,
            batch_size=None,
            num_workers=data.workers,
            multiprocessing_context=_context() if data.workers else None,
            worker_init_fn=_ignore_interrupts,
            generator=torch.Generator(),  # else it draws from the state that a resumed run restores
        )


def _context() -> Any:
    """Processes that are no copies of this one, whose threads and connections would not survive."""
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    _put_sockets_where_they_fit()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "open_clip"])  # imported once, not by each worker
    return context


def _put_sockets_where_they_fit() -> None:
    """Have multiprocessing make its folder, which it keeps, where a socket's path fits."""
    usual = tempfile.gettempdir()
    if network.is_short(usual, network.MULTIPROCESSING):
        return
    tempfile.tempdir = network.short_folder(network.MULTIPROCESSING)
    try:
        multiprocessing.util.get_temp_dir()
    finally:
        tempfile.tempdir = usual


def _ignore_interrupts(_: int) -> None:
    """Signals reach every process; the main one finishes its step first, and then ends its workers.

    It does so by SIGTERM where one of them is stuck, so that the second always ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))
