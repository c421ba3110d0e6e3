"""Turns the pairs of one dataset shard into the row groups of its shard file."""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rhocache_schemas.cache.shard_file import OK, Before, ShardFileWriter, ShardRows
from rhocache_schemas.cache.vectors import Codes, quantise
from rhocache_schemas.dataset.pair import Pair, hash_caption
from rhocache_schemas.errors import RowErrorCode
from rhocache_workers.encode.batches import Towers
from rhocache_workers.encode.decode import Decoder
from rhocache_workers.encode.deduplicate import Embedding, Memo
from rhocache_workers.encode.reuse import Found, Reused
from rhocache_workers.reference.model import Reference
from rhocache_workers.stage_times import Stages

# Rows that are sorted, written and forgotten together: a row group of the shard file.
WINDOW = 1024
WINDOW_BYTES = 64 << 20  # of images that wait together to be looked up among rows to reuse
MEMORIES = 1 << 15  # embeddings that are remembered, of images and of captions: 64 MB each at d=512


@dataclass(slots=True)
class Row:
    """A pair on its way to a row. What it shares with other pairs is in its embeddings."""

    key: str
    error: RowErrorCode | None
    image_hash: bytes | None
    caption_hash: bytes | None
    image: Embedding | None = None  # both there unless error, or found
    texts: list[Embedding] = field(default_factory=list["Embedding"])  # of its captions
    found: Found | None = None  # what another cache has of it


class Preparation:
    """Pairs to rows: hashes, and the towers' input for what was not met before."""

    def __init__(self, reference: Reference, views: int = 1) -> None:
        self._views = views
        self._tokenizer = reference.tokenizer
        self._images, self._texts = Memo(MEMORIES), Memo(MEMORIES)
        self._lock = threading.Lock()  # Hugging Face's tokenizers are not safe to share by threads

    def rows(
        self,
        pairs: Iterable[Pair],
        decoder: Decoder,
        stages: Stages,
        most: int | None = None,
        reused: Reused | None = None,
    ) -> Iterator[Row]:
        """Yield each pair's row, in order, while the decoder works on its image.

        Those after the first ``most`` are read, but not decoded or embedded; nor are those that
        are found among what is ``reused``.
        """
        within = _within(pairs, most)
        while True:
            with stages.busy("read"):
                window = list(_window(within)) if reused else list(islice(within, 1))
                rows = [_row(pair) for pair in window]
            if not window:
                return
            if reused is not None:
                with stages.busy("reuse"):
                    _find(reused, window, rows)
            for pair, row in zip(window, rows, strict=True):
                with stages.busy("read"):
                    self._begin(row, pair, decoder, stages)
                yield row

    def forget(self) -> None:
        self._images.clear()
        self._texts.clear()

    def _begin(self, row: Row, pair: Pair, decoder: Decoder, stages: Stages) -> None:
        image = pair.image
        if row.found is None and row.error is None and row.image_hash and row.caption_hash:
            name = pair.shard, pair.key
            decode = partial(decoder.submit, image or b"", name, stages)
            row.image = (
                self._images.get(row.image_hash, lambda: Embedding(decode()))
                if self._views == 1
                else Embedding(decode())  # drawn for this pair alone
            )
            row.texts = [self._text(caption) for caption in pair.captions]

    def _text(self, caption: str) -> Embedding:
        return self._texts.get(hash_caption(caption), lambda: self._tokens(caption))

    def _tokens(self, caption: str) -> Embedding:
        tokens: Future[Any] = Future()
        with self._lock:
            tokens.set_result(self._tokenizer([caption])[0])
        return Embedding(tokens)


def _within(pairs: Iterable[Pair], most: int | None) -> Iterator[Pair]:
    for number, pair in enumerate(pairs):
        over = most is not None and number >= most
        yield replace(pair, error=pair.error or RowErrorCode.OVER_LIMIT) if over else pair


def _window(pairs: Iterator[Pair]) -> Iterator[Pair]:
    """The next pairs that are looked up together: a row group's, if they are not too large."""
    size = 0
    for pair in islice(pairs, WINDOW):
        yield pair
        size += len(pair.image or b"")
        if size >= WINDOW_BYTES:
            return


def _row(pair: Pair) -> Row:
    return Row(
        key=pair.key,
        error=pair.error,
        image_hash=pair.image_hash,
        caption_hash=pair.caption_hash,
    )


def _find(reused: Reused, pairs: list[Pair], rows: list[Row]) -> None:
    hashes = [(row.image_hash, row.caption_hash) for row in rows]
    for row, found in zip(rows, reused.find(pairs, hashes), strict=True):
        row.found = found


def encode_shard(
    rows: Iterable[Row],
    towers: Towers,
    decoder: Decoder,
    writer: ShardFileWriter,
    stages: Stages,
    views: int = 1,
    captions: int = 1,
) -> Iterator[int]:
    """Embed the rows and write them, a row group a window. Yields the pairs seen so far.

    Of each image there are so many ``views``, and no pair has more ``captions``.
    """
    shard = _Shard(towers, decoder, stages, views, captions)
    window: list[Row] = []
    seen = 0
    try:
        for row in rows:
            window.append(row)
            seen += 1
            shard.take(row)
            if shard.batch_is_full:
                shard.encode_images()
                yield seen
            if len(window) == WINDOW:
                _write(writer, shard, window, stages)
                window = []
                yield seen
        if window:
            _write(writer, shard, window, stages)
    finally:
        shard.fetch()


def _write(writer: ShardFileWriter, shard: "_Shard", window: list[Row], stages: Stages) -> None:
    columns = shard.finish(window)
    with stages.busy("write"):
        writer.write(columns, _before(window))


def _before(window: list[Row]) -> Before | None:
    found = [row.found for row in window if row.found is not None]
    if not found:
        return None
    rows = np.array([row.found is not None for row in window])
    return Before(rows, {each.rounding for each in found})


class _Shard:
    """What of a shard is on its way through the towers."""

    def __init__(
        self, towers: Towers, decoder: Decoder, stages: Stages, views: int, captions: int
    ) -> None:
        self._towers = towers
        self._views = views
        self._captions = captions
        self._decoder = decoder
        self._stages = stages
        self._waiting: dict[Embedding, Tensor] = {}  # images that have no batch yet
        self._on_device: list[tuple[list[Embedding], Tensor]] = []  # a GPU may be at them still

    @property
    def batch_is_full(self) -> bool:
        return len(self._waiting) * self._views >= self._towers.batch_size

    def take(self, row: Row) -> None:
        image = row.image
        if image is None or image.source is None or image in self._waiting:
            return
        decoded = self._decoder.wait(image.source)
        if isinstance(decoded, RowErrorCode):
            image.error, image.source = decoded, None
        else:
            self._waiting[image] = decoded

    def encode_images(self) -> None:
        with self._stages.busy("image"):
            shown = list(self._waiting.values())
            vectors = self._towers.images([view for views in shown for view in views])
            vectors = vectors.unflatten(0, (len(shown), -1))
        self._on_device.append((list(self._waiting), vectors))
        for image in self._waiting:
            image.source = None
        self._waiting = {}

    def fetch(self) -> None:
        with self._stages.busy("image"):
            for images, vectors in self._on_device:
                _assign(images, vectors)
        self._on_device = []

    def finish(self, window: list[Row]) -> ShardRows:
        """Embed what is left of a window, and give its columns."""
        if self._waiting:
            self.encode_images()
        self.fetch()
        for row in window:
            if row.image is not None and row.image.error is not None:
                row.error = row.image.error
        usable = [row for row in window if row.error is None and row.found is None]
        with self._stages.busy("text"):
            self._encode_texts(usable)
        return self._columns(window, usable)

    def _encode_texts(self, usable: list[Row]) -> None:
        texts = list(dict.fromkeys(text for row in usable for text in row.texts if text.source))
        if texts:
            tokens = torch.stack([text.source.result() for text in texts])  # pyright: ignore
            _assign(texts, self._towers.texts(tokens))
            for text in texts:
                text.source = None

    def _columns(self, window: list[Row], usable: list[Row]) -> ShardRows:
        numbers = {id(row): number for number, row in enumerate(window)}
        at = [numbers[id(row)] for row in usable]
        n, d, places = len(window), self._towers.dimension, range(self._captions)
        image = np.full((n, self._views, d), np.nan, np.float32)
        text = np.full((n, self._captions, d), np.nan, np.float32)
        captions = np.ones(n, np.int64)
        for number, row in zip(at, usable, strict=True):
            captions[number] = own = len(row.texts)
            image[number] = row.image.vector  # pyright: ignore
            text[number] = [row.texts[place % own].vector for place in places]
        similarity = (image[:, 0] * text[:, 0]).sum(axis=1)
        for number in at:
            if not (np.isfinite(image[number]).all() and np.isfinite(text[number]).all()):
                window[number].error = RowErrorCode.NON_FINITE_EMBEDDING
        bad = [number for number, row in enumerate(window) if row.error is not None]
        for column in (image, text, similarity):
            column[bad] = np.nan
        found = {n: row.found for n, row in enumerate(window) if row.found is not None}
        for number, row in found.items():
            captions[number] = own = len(row.text)
            image[number], similarity[number] = row.image, row.similarity
            text[number] = row.text[np.arange(self._captions) % own]
        return ShardRows(
            keys=[row.key for row in window],
            status=[OK if row.error is None else str(row.error) for row in window],
            image=image,
            text=text,
            similarity=similarity,
            image_hash=[row.image_hash for row in window],
            caption_hash=[row.caption_hash for row in window],
            captions=captions,
            codes=_codes(image, text, found),
        )


def _codes(
    image: npt.NDArray[np.float32], text: npt.NDArray[np.float32], found: dict[int, Found]
) -> tuple[Codes, Codes] | None:
    """Rows in int8 as they were found: from their vectors the scales would differ by a bit."""
    if not any(row.codes for row in found.values()):
        return None
    codes = quantise(image), quantise(text)
    for number, row in found.items():
        for side, own in zip(codes, row.codes or (), strict=False):
            places = np.arange(side.scales.shape[1]) % len(own.scales)
            side.codes[number], side.scales[number] = own.codes[places], own.scales[places]
    return codes


def _assign(embeddings: list[Embedding], vectors: Tensor) -> None:
    # Copies: a slice would keep its whole batch in memory for as long as it is remembered.
    for embedding, vector in zip(embeddings, vectors.cpu().numpy(), strict=True):
        embedding.vector = vector.copy()
