"""The processes that train together, and what they tell each other about a batch."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """The default process group of torch.distributed, or one process where there is none.

    ``bytes_sent`` counts what this rank has given to others, as if each got it from it directly.
    """

    def __init__(self) -> None:
        self.bytes_sent = 0

    @property
    def rank(self) -> int:
        return dist.get_rank() if _several() else 0

    @property
    def world_size(self) -> int:
        return dist.get_world_size() if _several() else 1

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks, of one shape and dtype, without gradients."""
        if not _several():
            return [tensor]
        tensor = tensor.detach().contiguous()
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(gathered, tensor)
        self.bytes_sent += tensor.nbytes * (self.world_size - 1)
        return gathered

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of the tensors of all ranks, of one shape and dtype, without gradients."""
        if not _several():
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        self.bytes_sent += tensor.nbytes * (self.world_size - 1)
        return total

    def gather_objects(self, own: Any) -> list[Any]:
        """Return what every rank has, of things that can be pickled."""
        if not _several():
            return [own]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, own)
        return gathered

    def gather_rows(self, tensors: list[Tensor], sizes: list[int]) -> list[Tensor]:
        """Return each of ``tensors`` ([b, ...]) with the rows of all ranks, [Σ sizes, ...].

        ``sizes`` are the ranks' b. One collective for all of them, whatever their dtypes: rows
        travel as bytes, those of a smaller batch padded.
        """
        if not _several():
            return tensors
        rows = [tensor.detach().contiguous().flatten(1) for tensor in map(_column, tensors)]
        packed = torch.cat([row.view(torch.uint8).flatten(1) for row in rows], dim=1)
        padded = packed.new_zeros(max(sizes), packed.shape[1])
        padded[: len(packed)] = packed
        parts = [part[:size] for part, size in zip(self.gather(padded), sizes, strict=True)]
        columns = torch.cat(parts).split([row.element_size() * row.shape[1] for row in rows], dim=1)
        return [
            column.contiguous().view(tensor.dtype).view(-1, *tensor.shape[1:])
            for column, tensor in zip(columns, tensors, strict=True)
        ]


def _column(tensor: Tensor) -> Tensor:
    return tensor[:, None] if tensor.ndim == 1 else tensor


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
