"""The stream of training examples: shuffled, decoded off the main thread, resumable exactly."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from rhocache_schemas.errors import RowError, TrainingError
from rhocache_schemas.images import open_image
from rhocache_trainer.augment import augment, pair_random
from rhocache_trainer.config import Augmentation
from rhocache_trainer.pairs import PairSource, Sample
from rhocache_trainer.shuffle import shuffle


@dataclass(frozen=True, slots=True)
class Example:
    image: Tensor  # uint8 [3, height, width]
    tokens: Tensor  # int64 [context length]
    index: int
    reference_image: Tensor | None  # float32 [d']
    reference_text: Tensor | None


@dataclass(frozen=True, slots=True)
class Batch:
    image: Tensor  # uint8 [B, 3, height, width]
    tokens: Tensor  # int64 [B, context length]
    index: Tensor  # int64 [B]
    reference_image: Tensor | None  # float32 [B, d']
    reference_text: Tensor | None

    def to(self, device: torch.device) -> "Batch":
        def move(tensor: Tensor | None) -> Any:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return Batch(
            move(self.image),
            move(self.tokens),
            move(self.index),
            move(self.reference_image),
            move(self.reference_text),
        )


class Tokenizer(Protocol):
    def __call__(self, texts: str) -> Tensor: ...


class PairDataset(IterableDataset[Example]):
    """Each iteration is one epoch, or what is left of it.

    The order of pairs, and each pair's augmentation, are functions of (seed, epoch) and of
    (seed, epoch, shard, key), so ``state_dict`` holds no more than the epoch and how many pairs
    of it were given out.
    """

    def __init__(
        self,
        pairs: PairSource,
        tokenizer: Tokenizer,
        image_size: tuple[int, int],
        augmentation: Augmentation,
        *,
        seed: int,
        shuffle_buffer: int,
        threads: int,
    ) -> None:
        self.epoch = 0
        self.position = 0
        self._pairs = pairs
        self._tokenizer = tokenizer
        self._image_size = image_size
        self._augmentation = augmentation
        self._seed = seed
        self._shuffle_buffer = shuffle_buffer
        self._threads = threads

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]

    def __iter__(self) -> Iterator[Example]:
        if get_worker_info() is not None:
            raise TrainingError(
                "PairDataset decodes in threads; use a DataLoader with num_workers=0"
            )
        self._pairs.skipped.clear()
        samples = islice(self._samples(), self.position, None)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="decode") as pool:
            pending: deque[Future[Example]] = deque()
            try:
                for sample in samples:
                    pending.append(pool.submit(self._example, sample, self.epoch))
                    if len(pending) > 64 * self._threads:
                        yield from self._finished(pending.popleft())
                while pending:
                    yield from self._finished(pending.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        self.epoch += 1
        self.position = 0

    def _samples(self) -> Iterator[Sample]:
        random = Random(f"{self._seed}/{self.epoch}")  # noqa: S311 (not for secrets)
        shards = random.sample(self._pairs.shards, len(self._pairs.shards))
        stream = (sample for shard in shards for sample in self._pairs.read(shard))
        return shuffle(stream, self._shuffle_buffer, random)

    def _example(self, sample: Sample, epoch: int) -> Example:
        try:
            image = open_image(sample.image)
        except RowError as error:
            raise RowError(
                error.code,  # pyright: ignore[reportArgumentType]
                f"shard {sample.shard}, key {sample.key}: {error}",
            ) from error
        random = pair_random(self._seed, epoch, sample.shard, sample.key)
        return Example(
            augment(image, self._image_size, self._augmentation, random),
            self._tokenizer(sample.caption)[0],
            sample.index,
            _vector(sample.reference_image),
            _vector(sample.reference_text),
        )

    def _finished(self, future: Future[Example]) -> Iterator[Example]:
        self.position += 1
        try:
            example = future.result()
        except RowError as error:
            self._pairs.leave_out(error)
            return
        yield example


def collate(examples: list[Example]) -> Batch:
    """Stack examples into a batch; the images stay uint8 until they are on the device."""

    def stack(vectors: list[Tensor | None]) -> Tensor | None:
        present = [vector for vector in vectors if vector is not None]
        return torch.stack(present) if present else None

    return Batch(
        torch.stack([example.image for example in examples]),
        torch.stack([example.tokens for example in examples]),
        torch.tensor([example.index for example in examples]),
        stack([example.reference_image for example in examples]),
        stack([example.reference_text for example in examples]),
    )


def _vector(values: np.ndarray | None) -> Tensor | None:
    return None if values is None else torch.from_numpy(values.astype(np.float32))
