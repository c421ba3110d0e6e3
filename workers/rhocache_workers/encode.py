"""From one dataset shard to the rows of its shard file."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from rhocache_schemas.dataset import Shard
from rhocache_schemas.errors import RowError, RowErrorCode
from rhocache_schemas.images import open_image
from rhocache_schemas.job import Dtype
from rhocache_schemas.pairs import Pair, hash_caption, hash_image
from rhocache_schemas.shard_file import OK, ShardRows
from rhocache_schemas.tar_shard import ShardReader
from rhocache_workers.reference import Reference


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A shard that is being encoded."""

    shard: str
    pairs: int  # seen so far


def encode_shard(
    reference: Reference,
    shard: Shard,
    *,
    caption_field: str | None,
    dtype: Dtype,
    batch_size: int,
    pool: Executor,
) -> Generator[UnderWay, None, tuple[ShardRows, str]]:
    """Embed every pair of a shard; return its rows and the shard's SHA-256.

    It yields after each batch. The ``pool`` decodes and preprocesses
    the next batches while the towers embed this one. Equal shards and batch sizes give equal rows,
    whatever the pool does.

    Raises ShardError.
    """
    reader = ShardReader(shard, caption_field)
    rows: list[_Row] = []
    usable = _usable(_read(reference, reader, pool, ahead=2 * batch_size), rows)
    while batch := list(islice(usable, batch_size)):
        _encode_batch(reference, batch)
        yield UnderWay(shard.name, len(rows))
    if reader.sha256 is None:
        raise RuntimeError("the reader stopped before the end of the shard")
    dimension = int(reference.architecture["embed_dim"])
    return _columns(rows, dimension, np.dtype(dtype)), reader.sha256


class _Row:
    """A pair on its way; its pixels and caption are dropped as soon as they have served."""

    def __init__(self, pair: Pair, pixels: Tensor | RowErrorCode) -> None:
        self.key = pair.key
        self.status = str(pixels) if isinstance(pixels, RowErrorCode) else OK
        self.source = None if isinstance(pixels, RowErrorCode) else (pixels, pair.caption or "")
        self.image_hash = None if pair.image is None else hash_image(pair.image)
        self.caption_hash = None if pair.caption is None else hash_caption(pair.caption)
        self.image: np.ndarray | None = None  # float32 [d], as is the next
        self.text: np.ndarray | None = None
        self.similarity = float("nan")


def _read(reference: Reference, reader: ShardReader, pool: Executor, ahead: int) -> Iterator[_Row]:
    """The shard's pairs in order, with up to ``ahead`` more in the pool's hands."""
    pending: deque[tuple[Pair, Future[Tensor | RowErrorCode]]] = deque()
    for pair in reader:
        pending.append((pair, pool.submit(_pixels, reference, pair)))
        if len(pending) > ahead:
            pair, future = pending.popleft()
            yield _Row(pair, future.result())
    while pending:
        pair, future = pending.popleft()
        yield _Row(pair, future.result())


def _usable(rows: Iterator[_Row], seen: list[_Row]) -> Iterator[_Row]:
    """The rows to embed; all of them are put into ``seen``."""
    for row in rows:
        seen.append(row)
        if row.status == OK:
            yield row


def _pixels(reference: Reference, pair: Pair) -> Tensor | RowErrorCode:
    """What the image tower takes, float32 [3, height, width], or why there is nothing for it."""
    if pair.error is not None:
        return pair.error
    try:
        return reference.preprocess(open_image(pair.image or b""))
    except RowError as error:
        return error.code
    except (OSError, ValueError):  # opens, but can't be converted or resized
        return RowErrorCode.IMAGE_UNDECODABLE


def _encode_batch(reference: Reference, batch: list[_Row]) -> None:
    pixels, captions = zip(*(row.source for row in batch if row.source), strict=True)
    # Captions wait until here because Hugging Face's tokenizers are not safe to share by threads.
    image, text = reference.encode(torch.stack(pixels), reference.tokenizer(captions))
    similarity = (image * text).sum(dim=1)
    finite = (image.isfinite() & text.isfinite()).all(dim=1)
    for row, *values, good in zip(
        batch, image.numpy(), text.numpy(), similarity.tolist(), finite.tolist(), strict=True
    ):
        row.source = None
        if good:
            row.image, row.text, row.similarity = values
        else:
            row.status = str(RowErrorCode.NON_FINITE_EMBEDDING)


def _columns(rows: list[_Row], dimension: int, dtype: np.dtype) -> ShardRows:
    return ShardRows(
        keys=[row.key for row in rows],
        status=[row.status for row in rows],
        image=_stack([row.image for row in rows], dimension, dtype),
        text=_stack([row.text for row in rows], dimension, dtype),
        similarity=np.array([row.similarity for row in rows], dtype=np.float32),
        image_hash=[row.image_hash for row in rows],
        caption_hash=[row.caption_hash for row in rows],
    )


def _stack(vectors: list[np.ndarray | None], dimension: int, dtype: np.dtype) -> np.ndarray:
    """[n, 1, d], NaN where there is no vector."""
    stacked = np.full((len(vectors), 1, dimension), np.nan, dtype=dtype)
    for row, vector in enumerate(vectors):
        if vector is not None:
            stacked[row, 0] = vector
    return stacked
