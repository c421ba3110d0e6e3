"""From one dataset shard to the rows of its shard file."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
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

Prepared = tuple[Tensor, Tensor] | RowErrorCode  # pixels [3, height, width] and tokens, or why not


def encode_shard(
    reference: Reference,
    shard: Shard,
    *,
    caption_field: str | None,
    dtype: Dtype,
    batch_size: int,
    pool: Executor,
) -> tuple[ShardRows, str]:
    """Embed every pair of a shard; give its rows and the shard's SHA-256.

    The ``pool`` decodes and preprocesses the next batch while the towers embed this one. Equal
    shards and batch sizes give equal rows, whatever the pool does.

    Raises ShardError.
    """
    reader = ShardReader(shard, caption_field)
    pairs: list[_Row] = []
    stream = _prepared(reference, reader, pool, ahead=2 * batch_size)
    usable = (row for row in _collected(stream, pairs) if not isinstance(row.prepared, str))
    while batch := list(islice(usable, batch_size)):
        _encode_batch(reference, batch)
    if reader.sha256 is None:
        raise RuntimeError("the reader stopped before the end of the shard")
    return _columns(pairs, _dimension(reference), np.dtype(dtype)), reader.sha256


class _Row:
    """A pair on its way; its pixels and bytes are dropped as soon as they have served."""

    def __init__(self, pair: Pair, prepared: Prepared) -> None:
        self.key = pair.key
        self.prepared: Prepared | None = prepared
        self.status: str = prepared if isinstance(prepared, str) else OK
        self.image_hash = None if pair.image is None else hash_image(pair.image)
        self.caption_hash = None if pair.caption is None else hash_caption(pair.caption)
        self.image: np.ndarray | None = None  # float32 [d], as are the next
        self.text: np.ndarray | None = None
        self.similarity = float("nan")


def _prepared(
    reference: Reference, reader: ShardReader, pool: Executor, ahead: int
) -> Iterator[_Row]:
    pending: deque[tuple[Pair, Future[Prepared]]] = deque()
    for pair in reader:
        pending.append((pair, pool.submit(_prepare, reference, pair)))
        if len(pending) > ahead:
            pair, future = pending.popleft()
            yield _Row(pair, future.result())
    for pair, future in pending:
        yield _Row(pair, future.result())


def _collected(rows: Iterator[_Row], into: list[_Row]) -> Iterator[_Row]:
    for row in rows:
        into.append(row)
        yield row


def _prepare(reference: Reference, pair: Pair) -> Prepared:
    if pair.error is not None or pair.image is None or pair.caption is None:
        return pair.error or RowErrorCode.IMAGE_MISSING
    try:
        image = open_image(pair.image)
    except RowError as error:
        return RowErrorCode(error.code)
    try:
        pixels = reference.preprocess(image)
    except Exception:  # a mode or profile that opens but can't be converted
        return RowErrorCode.IMAGE_UNDECODABLE
    return pixels, reference.tokenizer([pair.caption])[0]


def _encode_batch(reference: Reference, batch: list[_Row]) -> None:
    pixels, tokens = zip(*(row.prepared for row in batch), strict=True)  # pyright: ignore
    image, text = reference.encode(torch.stack(pixels), torch.stack(tokens))
    similarity = (image * text).sum(dim=1)
    finite = (image.isfinite() & text.isfinite()).all(dim=1)
    for row, *values, good in zip(
        batch, image.numpy(), text.numpy(), similarity.tolist(), finite.tolist(), strict=True
    ):
        row.prepared = None
        if good:
            row.image, row.text, row.similarity = values
        else:
            row.status = RowErrorCode.NON_FINITE_EMBEDDING


def _dimension(reference: Reference) -> int:
    return int(reference.architecture["embed_dim"])


def _columns(rows: list[_Row], dimension: int, dtype: np.dtype) -> ShardRows:
    return ShardRows(
        keys=[row.key for row in rows],
        status=[str(row.status) for row in rows],
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
