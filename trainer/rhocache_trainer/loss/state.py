"""Base of losses with state: it changes once a step, and is held in float32 or better."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.module_tracker import ModuleTracker

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.distributed.collectives import Ranks


class State(nn.Module):
    """A module whose parameters and buffers, of floating type, are a loss's state: τ, μ, u, δ.

    **It changes in training alone**: in ``train()`` mode with gradients enabled. What evaluation,
    or a forward under no_grad, gives is what a step would have given, and nothing is kept of it.

    **A batch counts once.** torch.utils.checkpoint computes a forward again within the backward
    pass; the state is then the one that the first time has left.

    **Its dtype is** ``least`` **or wider**, whatever the model that it is a part of is cast to: in
    bfloat16 a τ near 0.07 could not follow its gradient, whose steps are below half a unit in the
    last place, and u would be off by per cents.
    """

    least = torch.float32
    _last: tuple[Tensor, Any] | None = None  # index and new state of the last batch that changed it

    @property
    def learns(self) -> bool:
        """Whether this forward is one of training."""
        return self.training and torch.is_grad_enabled()

    def keep(self, index: Tensor, new: Tensor, write: Callable[[], None]) -> Tensor:
        """Have ``write`` put ``new``, the state of the batch ``index``, where this is training.

        Gives the state that the batch's gradient is to be taken with. Raises InvalidInput within a
        backward pass, where another batch than this one was the last.
        """
        if not self.learns:
            if self.training:
                self._last = None  # a forward that checkpoint will compute again, if anything will
            return new
        if self._last is not None and ModuleTracker().is_bw:
            last, kept = self._last
            if not torch.equal(last, index):
                raise InvalidInput(
                    "a loss that was computed under torch.utils.checkpoint has seen another batch "
                    "before its backward pass; go backward before the next batch, or leave the "
                    "loss out of what is computed again: it holds no B x B matrix"
                )
            return kept
        write()
        self._last = index, new
        return new

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "State":
        def wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if not moved.is_floating_point():
                return moved
            dtype = torch.promote_types(moved.dtype, self.least)
            return moved if moved.dtype == dtype else tensor.to(moved.device, dtype)

        return super()._apply(wide, recurse)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._apply(lambda tensor: tensor, recurse=False)  # assign=True brings dtypes of its own


class OwnState(State):
    """One process's state: of the batches that it was given, or of its share of the pairs."""

    owner = "risk"  # what messages call the module that it is a part of
    rank: Tensor  # 0-dim int64, whose state it is; −1 before the first batch

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("rank", torch.tensor(-1), persistent=False)

    def keep(self, index: Tensor, new: Tensor, write: Callable[[], None]) -> Tensor:
        """As of any state; and raises InvalidInput where another rank's has come in its place."""
        if self.learns:
            rank, own = int(self.rank), Ranks().rank
            if rank not in (-1, own):
                raise InvalidInput(
                    f"rank {own} has got rank {rank}'s state of its {self.owner}: make "
                    "DistributedDataParallel with broadcast_buffers=False, or leave the "
                    f"{self.owner} out of what it wraps"
                )
            self.rank.fill_(own)
        return super().keep(index, new, write)


def state_dtype() -> torch.dtype:
    """Of a state to begin with: the default one, where that is not too narrow."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)
