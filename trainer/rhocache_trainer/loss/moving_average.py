"""The per-pair moving average u of a compositional risk, in log space, and its weight γ."""

import math

import torch
from torch import Tensor

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.distributed.collectives import Ranks
from rhocache_trainer.loss.state import OwnState, State, state_dtype


class LogMovingAverage(State):
    """u_i ← (1−γ) u_i + γ g_i for each of n pairs; the first g_i that a pair brings is its u_i.

    Held as log u, because u = mean exp(d) leaves the range of float32 at small temperatures.
    Which pairs were seen is a mask of its own: no value of u could stand for "never".
    """

    log_u: Tensor  # [n]
    seen: Tensor  # [n] bool

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("log_u", torch.zeros(n, dtype=state_dtype()))
        self.register_buffer("seen", torch.zeros(n, dtype=torch.bool))

    def update(self, index: Tensor, log_g: Tensor, gamma: float) -> Tensor:
        """Take in log g of the pairs ``index`` ([B] int64, all different); give their log u, [B].

        γ must lie in (0, 1].
        """
        if gamma == 1.0:  # log(1−γ) is not a number to add
            log_u = log_g
        else:
            old, seen = self._read(index)
            old = old.to(log_g.dtype)
            averaged = torch.logaddexp(math.log1p(-gamma) + old, math.log(gamma) + log_g)
            log_u = torch.where(seen, averaged, log_g)
        return self.keep(index, log_u, lambda: self._write(index, log_u))

    @property
    def held(self) -> range:
        """The pairs whose rows are here."""
        return range(len(self.log_u))

    def rows(self) -> dict[str, Tensor]:
        """Return views of those rows, by the names of their tables."""
        count = len(self.held)
        return {"log_u": self.log_u[:count], "seen": self.seen[:count]}

    def _read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_u[index], self.seen[index]

    def _write(self, index: Tensor, log_u: Tensor) -> None:
        self.log_u[index] = log_u.to(self.log_u.dtype)
        self.seen[index] = True


class ShardedLogMovingAverage(OwnState, LogMovingAverage):
    """The same u, to the bit, of which each rank holds the rows of a share of the pairs.

    Shares are runs of pairs, in the ranks' order. ``update`` is given the same batch on all ranks,
    that of all of them, and so computes the same u everywhere: what it was comes from its owners,
    by adding up what all ranks have of it, which is 0 but for one. Each then writes its own rows.

    It is made once torch.distributed is initialised.
    """

    owner = "loss"

    def __init__(self, n: int, ranks: Ranks) -> None:
        # Of one length on all ranks, the last ones' padded: DistributedDataParallel sends buffers
        # before keep() can refuse them.
        super().__init__(-(-n // ranks.world_size))
        self._n, self._ranks = n, ranks
        self._world_size, self._first = ranks.world_size, ranks.rank * len(self.log_u)

    @property
    def held(self) -> range:
        return range(self._first, max(self._first, min(self._first + len(self.log_u), self._n)))

    def _read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        place, own = self._place(index)
        log_u, seen = super()._read(place.where(own, 0))
        found = torch.stack([log_u, seen.to(log_u.dtype)]).where(own, 0)
        log_u, seen = self._ranks.sum(found)
        return log_u, seen.bool()

    def _write(self, index: Tensor, log_u: Tensor) -> None:
        place, own = self._place(index)
        super()._write(place[own], log_u[own])

    def _place(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Places in the tables, and whether they are in this rank's."""
        if self._ranks.world_size != self._world_size:
            raise InvalidInput(
                f"a sharded loss was made on one of {self._world_size} ranks, and there are "
                f"{self._ranks.world_size} now; make it once torch.distributed is initialised"
            )
        place = index - self._first
        return place, (place >= 0) & (place < len(self.log_u))


def cosine_gamma(epoch: int, epochs: int, minimum: float) -> float:
    """Return γ of an epoch: 1 in epoch 0, then down a half cosine, ``minimum`` from ``epochs`` on.

    The model changes fast at first, so old estimates of u are worth little then (FastCLIP, Wei et
    al. 2024, section 4). With ``epochs`` = 0 it is ``minimum`` throughout.
    """
    if epoch >= epochs:
        return minimum
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * epoch / epochs)) / 2
