"""Global contrastive losses of the pairs of a cache.

Of n pairs with the similarities s_ij of image i and text j, at the temperature τ, the losses of
pair i are

    image_loss_i = log (1/n) Σ_j exp((s_ij − s_ii) / τ)
    text_loss_i  = log (1/n) Σ_j exp((s_ji − s_ii) / τ)

over all n pairs, j = i among them: InfoNCE with the whole cache for a batch, less log n. SogCLR's
g(w; x_i) (Yuan et al. 2022, "Provable Stochastic Optimization for Global Contrastive Learning") and
FastCLIP's g_1 and g_2 (Wei et al. 2024) are means over the n − 1 others:
g = (n exp(loss) − 1) / (n − 1).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rhocache_schemas.errors import JobError
from rhocache_schemas.job.kinds.losses import LossesSpec
from rhocache_schemas.table.documents import Column
from rhocache_workers.over_cache.embeddings import Block, read_blocks
from rhocache_workers.over_cache.sample import draw
from rhocache_workers.over_cache.work import PairWork

_COLUMNS = 8192  # at least so many are multiplied at a time

_LOSSES = (
    Column(
        name="image_loss",
        type="double",
        description="log (1/n) Σ_j exp((s_ij − s_ii) / τ) over all n texts j, its own among them",
    ),
    Column(
        name="text_loss",
        type="double",
        description="log (1/n) Σ_j exp((s_ji − s_ii) / τ) over all n images j, its own among them",
    ),
    Column(name="loss", type="double", description="the mean of image_loss and text_loss"),
)
_ENDS = tuple(
    Column(name=side + end, type="double", description=f"{which} end of a 95 % interval of {of}")
    for side, of in (("image_", "image_loss"), ("text_", "text_loss"), ("", "loss"))
    for end, which in (("low", "lower"), ("high", "upper"))
)

Floats = npt.NDArray[np.float64]


class Losses(PairWork[LossesSpec]):
    """Each pair against all, or with ``sample`` against some that are drawn.

    The ends of ``loss`` are the means of the sides' ends: as wide as if the errors of both sides
    went together, and no narrower than they are.
    """

    shown = "loss"

    def columns(self) -> Sequence[Column]:
        return _LOSSES + _ENDS if self.spec.sample else _LOSSES

    def check(self) -> None:
        if not self.cache.manifest.ok:
            raise JobError(f"{self.cache.uri} has no usable pair")

    def rows_of(self, shards: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        for rows in read_blocks(self.cache, shards, at_least=2**62):
            found = self._losses(rows)
            start = 0
            for shard, usable in rows.usable.items():
                end = start + int(usable.sum())
                yield shard, _table({name: v[start:end] for name, v in found.items()}, usable)
                start = end

    def _losses(self, rows: Block) -> dict[str, Floats]:
        """Of each of these pairs, by column."""
        # Imported where it works: the driver of many tasks need not hold torch.
        from rhocache_workers.over_cache.log_mean_exp import RowSums, tensor

        n, sample = self.cache.manifest.ok, self.spec.sample
        tau = self.spec.tau or 1 / self.cache.manifest.known_logit_scale
        drawn = None
        if sample is not None and sample < n:
            drawn = draw(
                {name: row.ok for name, row in self.cache.index.items()}, sample, self.spec.seed
            )
        own = np.einsum("nd,nd->n", rows.image, rows.text, dtype=np.float64)
        images, texts = (
            RowSums(tensor(each, tau), own, tau, squares=drawn is not None)
            for each in (rows.image, rows.text)
        )
        others = np.zeros(len(own))  # that each pair was compared with
        for columns in read_blocks(
            self.cache, list(self.cache.index), at_least=_COLUMNS, chosen=drawn
        ):
            _, own_rows, own_columns = np.intersect1d(
                rows.numbers, columns.numbers, assume_unique=True, return_indices=True
            )
            images.add(tensor(columns.text, tau), own_rows, own_columns)
            texts.add(tensor(columns.image, tau), own_rows, own_columns)
            others += len(columns.numbers)
            others[own_rows] -= 1
        if drawn is not None:
            return _with_ends(*(side.estimates(n, others) for side in (images, texts)))
        found = [side.losses(n) for side in (images, texts)]
        if self.spec.sample:  # of all pairs
            return _with_ends(*((loss, np.zeros(len(loss))) for loss in found))
        return _named(*found)


def _named(image: Floats, text: Floats) -> dict[str, Floats]:
    return {"image_loss": image, "text_loss": text, "loss": (image + text) / 2}


def _with_ends(image: tuple[Floats, Floats], text: tuple[Floats, Floats]) -> dict[str, Floats]:
    """``image`` and ``text`` are losses and half the widths of their intervals."""
    found = _named(image[0], text[0])
    widths = {"image_": image[1], "text_": text[1], "": (image[1] + text[1]) / 2}
    for side, width in widths.items():
        found[f"{side}low"] = found[f"{side}loss"] - width
        found[f"{side}high"] = found[f"{side}loss"] + width
    return found


def _table(columns: dict[str, Floats], usable: npt.NDArray[np.bool_]) -> pa.Table:
    """A row for each of a shard's pairs, null where it is not usable."""

    def spread(values: Floats) -> Floats:
        every = np.full(len(usable), np.nan)
        every[usable] = values
        return every

    return pa.table({name: pa.array(spread(v), mask=~usable) for name, v in columns.items()})
