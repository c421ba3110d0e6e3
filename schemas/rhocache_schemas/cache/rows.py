"""The rows of a shard file as columns, and the hash of them."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rhocache_schemas.cache import vectors
from rhocache_schemas.cache.vectors import Codes

OK = "ok"


@dataclass(frozen=True, slots=True)
class ShardRows:
    """The n rows of a shard file as columns, in tar order.

    V views and C captions a pair, embeddings of d numbers. Embeddings and similarities of rows
    whose status is not ``ok`` are NaN here and null in the file; a hash is null where there was no
    image or caption to hash, or nobody hashed it.
    """

    keys: list[str]
    status: list[str]  # ``ok`` or a RowErrorCode
    image: npt.NDArray[np.floating]  # [n, V, d], unit vectors
    text: npt.NDArray[np.floating]  # [n, C, d], unit vectors; see ``captions``
    similarity: npt.NDArray[np.float32]  # [n], cosine of view 0 and caption 0, before rounding
    image_hash: list[bytes | None]
    caption_hash: list[bytes | None]
    # [n], captions of each row, from 1 to C; None: C of all. Text k of a row with c of them is
    # that of its caption k mod c.
    captions: npt.NDArray[np.int64] | None = None
    codes: tuple[Codes, Codes] | None = None  # of image and text, as they are stored in int8

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which rows are usable, [n]."""
        return np.array([status == OK for status in self.status], dtype=np.bool_)

    @property
    def counts(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """How many image and text embeddings each row has in the file, [n] each."""
        ok = self.ok.astype(np.int64)
        captions = self.text.shape[1] if self.captions is None else self.captions
        return ok * self.image.shape[1], ok * captions

    def stored_in(self, dtype: np.dtype[Any]) -> Self:
        """Return the rows as they are read again where embeddings are stored in ``dtype``."""
        if dtype != np.int8:
            image, text = self.image.astype(dtype), self.text.astype(dtype)
            return replace(self, image=image, text=text, codes=None)
        codes = self.codes or (vectors.quantise(self.image), vectors.quantise(self.text))
        return replace(self, image=codes[0].vectors(), text=codes[1].vectors(), codes=codes)

    def part(self, start: int, stop: int) -> Self:
        """Return the rows from one number to another, as they are before they are stored."""
        cut = slice(start, stop)
        return replace(
            self,
            keys=self.keys[cut],
            status=self.status[cut],
            image=self.image[cut],
            text=self.text[cut],
            similarity=self.similarity[cut],
            image_hash=self.image_hash[cut],
            caption_hash=self.caption_hash[cut],
            captions=None if self.captions is None else self.captions[cut],
            codes=None,
        )

    def content_sha256(self) -> str:
        digest = ContentDigest()
        digest.update(self)
        return digest.hexdigest()


class ContentDigest:
    """SHA-256 of rows themselves, however a Parquet writer groups and writes them."""

    def __init__(self) -> None:
        self._shapes = ""
        self._captions = 1
        self._columns = [hashlib.sha256() for _ in range(8)]
        self._scales = [hashlib.sha256() for _ in range(2)]
        self._coded = False

    def update(self, rows: ShardRows) -> None:
        """Count in the next rows of the shard."""
        self._shapes = repr((rows.image.shape[1:], rows.text.shape[1:]))
        self._captions, self._coded = rows.text.shape[1], rows.codes is not None
        counts = rows.counts
        embeddings = [each.codes for each in rows.codes] if rows.codes else [rows.image, rows.text]
        scales = [each.scales for each in rows.codes or ()]
        columns = (
            *("".join(f"{each}\0" for each in s).encode() for s in (rows.keys, rows.status)),
            *(_own(array, count) for array, count in zip(embeddings, counts, strict=True)),
            rows.similarity[rows.ok].tobytes(),
            *(
                b"".join(h if h is not None else b"-" for h in hashes)
                for hashes in (rows.image_hash, rows.caption_hash)
            ),
            counts[1][rows.ok].astype("<i4").tobytes(),
        )
        for digest, column in zip(self._columns, columns, strict=True):
            digest.update(column)
        for digest, array, count in zip(self._scales, scales, counts, strict=False):
            digest.update(_own(array, count))

    def hexdigest(self) -> str:
        columns = self._columns[: 8 if self._captions > 1 else 7]
        columns += self._scales if self._coded else []
        digests = "".join(column.hexdigest() for column in columns)
        return hashlib.sha256((self._shapes + digests).encode()).hexdigest()


def _own(array: npt.NDArray[Any], counts: npt.NDArray[np.int64]) -> bytes:
    """The bytes of the first ``counts`` vectors of each row."""
    return array[np.arange(array.shape[1]) < counts[:, None]].tobytes()
