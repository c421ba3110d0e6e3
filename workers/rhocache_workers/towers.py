"""Feeding a reference's two towers in batches that suit them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rhocache_workers.reference import Reference

# Matrix products of fewer rows take other kernels, which round otherwise: batches are filled up to
# this, so that an embedding's bits do not depend on what it is encoded with (see calibration.py).
MIN_IMAGES = 8
MIN_TOKENS = 512


class Towers:
    """``batch_size`` images a batch, and as many tokens as that many captions can have.

    Where a device runs out of memory, batches are halved from then on.
    """

    def __init__(self, reference: Reference, batch_size: int) -> None:
        self._reference = reference
        self._context = reference.context_length
        self.dimension = reference.dimension
        self.batch_size = batch_size

    def images(self, pixels: Sequence[Tensor]) -> Tensor:
        """Embed n images, each uint8 [3, height, width]: float32 [n, d], on the device.

        Raises torch.OutOfMemoryError when a single image is too much.
        """

        def encode(part: list[int]) -> Tensor:
            filled = _fill(part, min(MIN_IMAGES, self.batch_size))
            return self._reference.encode_images(torch.stack([pixels[i] for i in filled]))

        return self._batches(encode, range(len(pixels)), lambda: self.batch_size)

    def texts(self, tokens: Tensor) -> Tensor:
        """Embed n texts, int64 [n, context length]: float32 [n, d], on the device.

        Texts of one length go together, and only as many positions of them as they need.

        Raises torch.OutOfMemoryError when a single text is too much.
        """
        lengths = self._reference.text_tower.lengths(tokens).tolist()
        parts: list[Tensor] = []
        order: list[int] = []
        for length in sorted(set(lengths)):
            same = [i for i, each in enumerate(lengths) if each == length]
            order += same
            parts.append(self._texts_of_length(tokens, same, length))
        inverse = torch.tensor(order).argsort()
        return torch.cat(parts)[inverse.to(parts[0].device)]

    def _texts_of_length(self, tokens: Tensor, same: list[int], length: int) -> Tensor:
        def rows() -> int:
            return max(1, self.batch_size * self._context // length)

        def encode(part: list[int]) -> Tensor:
            filled = _fill(part, min(-(-MIN_TOKENS // length), rows()))
            return self._reference.encode_texts(tokens[filled])

        return self._batches(encode, same, rows)

    def _batches(
        self, encode: Callable[[list[int]], Tensor], items: Sequence[int], size: Callable[[], int]
    ) -> Tensor:
        parts: list[Tensor] = []
        done = 0
        while done < len(items):
            part = list(items[done : done + size()])
            try:
                parts.append(encode(part)[: len(part)])
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                too_much = True
            else:
                too_much = False
                done += len(part)
            if too_much:  # out of the handler, whose traceback holds the tensors of the attempt
                self.batch_size //= 2
                torch.cuda.empty_cache()
        return torch.cat(parts)


def _fill(part: list[int], least: int) -> list[int]:
    return part + part[-1:] * (least - len(part))
