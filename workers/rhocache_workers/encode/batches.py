"""Feeding a reference's two towers in batches that suit them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rhocache_workers.reference.model import Reference
from rhocache_workers.reference.packed_blocks import MIN_ROWS


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
            part = part if self._reference.image_tower.trims else self._filled(part)
            return self._reference.encode_images(torch.stack([pixels[i] for i in part]))

        return self._batches(encode, len(pixels), lambda _: self.batch_size)

    def texts(self, tokens: Tensor) -> Tensor:
        """Embed n texts, int64 [n, context length]: float32 [n, d], on the device.

        Raises torch.OutOfMemoryError when a single text is too much.
        """
        lengths, order = self._reference.text_tower.lengths(tokens).sort(stable=True)
        ends = lengths.cumsum(0)

        def fitting(done: int) -> int:
            start = ends[done - 1] if done else 0
            most = start + self.batch_size * self._context
            return int(torch.searchsorted(ends, most, right=True)) - done

        def encode(part: list[int]) -> Tensor:
            part = part if self._reference.text_tower.cuts else self._filled(part)
            return self._reference.encode_texts(tokens[order[part]])

        found = self._batches(encode, len(tokens), fitting)
        return found[order.argsort().to(found.device)]

    def _batches(
        self, encode: Callable[[list[int]], Tensor], count: int, size: Callable[[int], int]
    ) -> Tensor:
        """Encode inputs 0 to ``count``, ``size(done)`` of them after the first ``done``."""
        parts: list[Tensor] = []
        done = 0
        while done < count:
            part = list(range(done, min(done + size(done), count)))
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

    def _filled(self, part: list[int]) -> list[int]:
        """For towers of other kinds than those in blocks.py, which see to it themselves."""
        return part + part[-1:] * (min(MIN_ROWS, self.batch_size) - len(part))
