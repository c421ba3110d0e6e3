"""The stream of training batches: shuffled, decoded off the main thread, resumable exactly."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count, islice
from random import Random
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from rhocache_schemas.dataset.augmentation import Augmentation
from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.dataset.pair import Pair
from rhocache_schemas.errors import (
    MissingPair,
    PairMismatch,
    RhocacheError,
    RowError,
    TrainingError,
)
from rhocache_trainer.data.augment import augment, pair_random
from rhocache_trainer.data.join import JoinedPair, OnMissing, PairSource
from rhocache_trainer.data.partition import Share, share_of, shuffle
from rhocache_trainer.data.replay import Replay, Turns

_READ_AHEAD = 64  # pairs that wait for each decoding thread
_AT_ONCE = 32  # of them
_NO_IMAGE, _NO_TOKENS = torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
_CAPTIONS = 1 << 16  # whose tokens are kept, up to 64 MB: cleaning one costs as much as an image


@dataclass(frozen=True, slots=True)
class Example:
    joined: JoinedPair
    image: Tensor  # uint8 [3, height, width]; [0] where there is no image tower
    tokens: Tensor  # int64 [context length]; [0] where there is no text tower
    view: int = 0  # of the image, by its number in the cache
    caption: int = 0  # of the pair's


@dataclass(frozen=True, slots=True)
class Batch:
    image: Tensor  # uint8 [B, 3, height, width]
    tokens: Tensor  # int64 [B, context length]
    index: Tensor  # int64 [B]
    reference_image: Tensor | None  # float32 [B, d'], of several references one after another
    reference_text: Tensor | None
    pairs: list[Pair] = field(default_factory=list[Pair])  # without their images' bytes
    # Error code -> pairs that were left out on the way to this batch.
    skipped: dict[str, int] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Batch":
        return self._with(lambda tensor: tensor.to(device, non_blocking=True), self.pairs)

    def take(self, rows: Tensor) -> "Batch":
        """Some of its pairs; ``rows`` int64."""
        pairs = [self.pairs[row] for row in rows.tolist()] if self.pairs else []
        return self._with(lambda tensor: tensor[rows.to(tensor.device)], pairs)

    def _with(self, change: Callable[[Tensor], Tensor], pairs: list[Pair]) -> "Batch":
        def changed(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return Batch(
            change(self.image),
            change(self.tokens),
            change(self.index),
            changed(self.reference_image),
            changed(self.reference_text),
            pairs,
            self.skipped,
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way from a worker process, which a DataLoader would make another of."""

    kind: type[RhocacheError]
    arguments: tuple[Any, ...]
    attributes: dict[str, Any]

    @classmethod
    def of(cls, error: RhocacheError) -> "Failure":
        return cls(type(error), error.args, vars(error))

    def error(self) -> RhocacheError:
        error = self.kind.__new__(self.kind, *self.arguments)
        vars(error).update(self.attributes)
        return error


Unusable = MissingPair | PairMismatch | RowError
_UNUSABLE = MissingPair, PairMismatch, RowError


class Tokenizer(Protocol):
    def __call__(self, texts: str) -> Tensor: ...


class PairDataset(IterableDataset[Batch | Failure]):
    """Batches without end: an epoch is ``steps`` of them, the same number on every rank.

    Which pairs are in an epoch, their order, and each pair's caption and augmentation, or view, are
    functions of (seed, epoch, rank, world size, number of workers). Shards are shuffled by (seed,
    epoch), the same on every rank, and their rows cut into equal runs (see ``share_of``), so no
    pair comes twice in an epoch; fewer than batch_size x world_size are not in it at all. Where
    pairs are left out, a rank goes through its run again until its steps are done, so that no other
    rank waits for it in vain.

    ``state_dict`` holds no more than the epoch and how much of it was given out. In a DataLoader's
    worker process it gives that worker's batches; with ``batch_size=None``, for they are whole.

    Without ``image_size`` no image is decoded, and without a ``tokenizer`` no caption looked at.

    Raises TrainingError when made, where there are too few pairs for a batch on every rank.
    """

    def __init__(
        self,
        pairs: PairSource,
        tokenizer: Tokenizer | None,
        image_size: tuple[int, int] | None,
        augmentation: Augmentation,
        replay: Replay | None = None,
        turns: Turns | None = None,
        *,
        batch_size: int,
        seed: int,
        shuffle_buffer: int,
        threads: int,
        on_missing: OnMissing = "error",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.steps = pairs.usable // (batch_size * world_size)
        if not self.steps:
            ranks = f" on each of {world_size} ranks" if world_size > 1 else ""
            raise TrainingError(
                f"{pairs.usable} usable pairs are fewer than batch_size={batch_size}{ranks}"
            )
        self._pairs = pairs
        self._tokenizer = self._tokens = tokenizer
        self._image_size = image_size
        self._augmentation = augmentation
        self._replay = replay
        self._turns = turns or Turns(seed)
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle_buffer = shuffle_buffer
        self._threads = threads
        self._on_missing = on_missing
        self._rank = rank
        self._world_size = world_size
        self._epoch = 0
        self._batches = 0  # of this epoch, given out by this process
        self._position = 0  # pairs of this epoch, given out or left out

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self._epoch, "batches": self._batches, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._epoch, self._batches = state["epoch"], state["batches"]
        self._position = state["position"]

    def __iter__(self) -> Iterator[Batch | Failure]:
        in_worker = get_worker_info() is not None
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        # What drops words at random (open_clip's reduction masks) does so anew each time.
        if self._tokenizer and getattr(self._tokenizer, "reduction_fn", None) is None:
            self._tokens = lru_cache(_CAPTIONS)(self._tokenizer)  # here: it can't be pickled
        try:
            while True:
                yield from self._rest_of_epoch(pool)
                self._epoch += 1
                self._batches = self._position = 0
        except RhocacheError as error:
            if not in_worker:
                raise
            yield Failure.of(error)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _rest_of_epoch(self, pool: ThreadPoolExecutor) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        share = self._share(worker, workers)
        pending = islice(self._pending(share, worker), self._position, None)
        batch: list[Example] = []
        skipped: Counter[str] = Counter()
        turn = last_turn = None  # the one that is under way, and the last one that gave a batch
        decoded = self._decoded(
            pool,
            pending,
            lambda: (share.batches - self._batches) * self._batch_size - len(batch),
        )
        while self._batches < share.batches:
            turn_of_pair, outcome = next(decoded)
            self._position += 1
            if turn_of_pair != turn:
                turn = turn_of_pair
                last_turn = turn if last_turn is None else last_turn
                if turn > last_turn + 1:
                    raise TrainingError(
                        f"{share.rows} pairs hold no batch of {self._batch_size} usable ones; left "
                        f"out: {dict(skipped)}"
                    )
                batch.clear()  # for no pair may come twice in one
            if isinstance(outcome, Example):
                batch.append(outcome)
            elif self._on_missing == "error":
                raise outcome
            else:
                skipped[outcome.code] += 1
            if len(batch) == self._batch_size:
                last_turn = turn
                self._batches += 1
                yield collate(batch, dict(skipped))
                batch.clear()
                skipped.clear()

    def _share(self, worker: int, workers: int) -> Share:
        random = Random(f"{self._seed}/{self._epoch}")  # noqa: S311 (not for secrets)
        return share_of(
            random.sample(self._pairs.shards, len(self._pairs.shards)),
            steps=self.steps,
            first_step=self._epoch * self.steps,
            rank=self._rank,
            world_size=self._world_size,
            worker=worker,
            workers=workers,
        )

    def _pending(self, share: Share, worker: int) -> Iterator[tuple[int, JoinedPair]]:
        """A share's pairs, turn after turn, each in another order."""
        for turn in count():
            where = f"{self._seed}/{self._epoch}/{self._rank}/{worker}/{turn}"
            stream = (
                pair
                for piece in share.pieces
                for pair in islice(
                    self._pairs.read(piece.shard, piece.start),
                    None if piece.stop is None else piece.stop - piece.start,
                )
            )
            empty = True
            for pair in shuffle(stream, self._shuffle_buffer, Random(where)):  # noqa: S311
                empty = False
                yield turn, pair
            if empty:
                names = ", ".join(piece.shard.name for piece in share.pieces[:5])
                raise TrainingError(f"there is no pair left where {share.rows} were: {names}")

    def _decoded(
        self,
        pool: ThreadPoolExecutor,
        pending: Iterator[tuple[int, JoinedPair]],
        wanted: Callable[[], int],
    ) -> Iterator[tuple[int, Example | Unusable]]:
        """Yield what has become of pairs, in their order, reading ahead no further than ``wanted``.

        Threads get several at a time: to hand over one costs a third of what a small image does.
        """
        ahead = 0
        handed_over: deque[Future[list[tuple[int, Example | Unusable]]]] = deque()
        while True:
            while ahead < min(wanted(), _READ_AHEAD * self._threads):
                several = list(islice(pending, min(_AT_ONCE, wanted() - ahead)))
                handed_over.append(pool.submit(self._outcomes, several, self._epoch))
                ahead += len(several)
            for outcome in handed_over.popleft().result():
                ahead -= 1
                yield outcome

    def _outcomes(
        self, several: list[tuple[int, JoinedPair]], epoch: int
    ) -> list[tuple[int, Example | Unusable]]:
        outcomes: list[tuple[int, Example | Unusable]] = []
        for turn, pair in several:
            try:
                outcomes.append((turn, self._example(pair, epoch)))
            except _UNUSABLE as error:
                outcomes.append((turn, error))
        return outcomes

    def _example(self, joined: JoinedPair, epoch: int) -> Example:
        joined = self._pairs.load(joined)
        pair, captions = joined.pair, joined.pair.captions or ("",)
        view, caption = self._turns.choose(epoch, pair.shard, pair.key, len(captions))
        tokens = self._tokens(captions[caption])[0] if self._tokens else _NO_TOKENS
        return Example(joined, self._image(pair, epoch, view), tokens, view, caption)

    def _image(self, pair: Pair, epoch: int, view: int) -> Tensor:
        if self._image_size is None:
            return _NO_IMAGE
        try:
            opened = open_image(pair.image or b"")
        except RowError as error:
            where = f"shard {pair.shard}, key {pair.key}"
            raise RowError(error.code, f"{where}: {error}") from error
        if self._replay is not None:
            return self._replay.show(opened, view, pair.shard, pair.key)
        random = pair_random(self._seed, epoch, pair.shard, pair.key)
        return augment(opened, self._image_size, self._augmentation, random)


def collate(examples: list[Example], skipped: dict[str, int]) -> Batch:
    """Stack examples into a batch; the images stay uint8 until they are on the device."""
    rows = [[row for row in (e.joined.row, *e.joined.others) if row] for e in examples]
    views = [example.view for example in examples]
    captions = [example.caption for example in examples]
    return Batch(
        torch.stack([example.image for example in examples]),
        torch.stack([example.tokens for example in examples]),
        torch.tensor([example.joined.index for example in examples]),
        _rows([[row.image[v] for row in each] for v, each in zip(views, rows, strict=True)]),
        _rows([[row.text[c] for row in each] for c, each in zip(captions, rows, strict=True)]),
        [_seen(example) for example in examples],
        skipped,
    )


def _seen(example: Example) -> Pair:
    """The pair as it was looked at, without what takes memory."""
    pair = example.joined.pair
    caption = pair.captions[example.caption] if pair.captions else None
    return replace(pair, image=None, metadata=None, caption=caption, others=())


def _rows(vectors: list[list[np.ndarray]]) -> Tensor | None:
    """The vectors of each pair one after another, float32 [B, Σ d]; None where there are none."""
    if not vectors[0]:
        return None
    return torch.from_numpy(np.stack([np.concatenate(each) for each in vectors])).float()
