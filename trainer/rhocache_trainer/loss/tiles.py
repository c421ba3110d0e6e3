"""Sums over the B x B matrix of residuals, a tile of its rows at a time.

The residual of image i and text j is e_ij = s_ij − r_ij, target cosine less reference cosine, of
several references the smallest. Each pair is an anchor twice: its image among the texts of the
others, along a row, and its text among their images, along a column. An anchor's exponents are
d = (e − e_ii) / τ.

Nothing here is differentiated: the gradients of a contrastive risk are weighted sums of features,
so that memory grows with B times the rows of a tile, and the matrix is never there as a whole.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Numbers in a tile: few enough for a CPU's cache, and many where each kernel has to be launched.
_CPU_NUMBERS = 1 << 20
_GPU_NUMBERS = 1 << 24
# Below every residual of unit vectors: the peak of a column that has its own pair alone in a tile.
_LOWEST = -10.0


@dataclass(frozen=True, slots=True)
class Side:
    """One modality of a batch: what its anchors and their negatives are made of."""

    features: Tensor  # [B, d], the target's
    reference: tuple[
        Tensor, ...
    ]  # [B, d'] of each, the smallest of whose cosines is r; none: r = 0
    tau: Tensor  # [B], of each anchor


@dataclass(frozen=True, slots=True)
class LogSums:
    """Over an anchor's negatives: Σ exp d = total · exp peak, and Σ d exp d likewise."""

    peak: Tensor  # [B]
    total: Tensor  # [B]
    moment: Tensor  # [B]

    @property
    def log(self) -> Tensor:
        """log Σ exp d."""
        return self.peak + self.total.log()

    @property
    def mean(self) -> Tensor:
        """Mean of d under the weights exp d."""
        return self.moment / self.total

    def stacked(self) -> Tensor:
        """As one tensor, [B, 3], to be sent."""
        return torch.stack([self.peak, self.total, self.moment], dim=1)

    @classmethod
    def unstacked(cls, stacked: Tensor) -> "LogSums":
        return cls(*stacked.unbind(1))

    def merged(self, other: "LogSums") -> "LogSums":
        """Over the negatives of both."""
        peak = torch.maximum(self.peak, other.peak)
        ours, theirs = torch.exp(self.peak - peak), torch.exp(other.peak - peak)
        return LogSums(
            peak,
            self.total * ours + other.total * theirs,
            self.moment * ours + other.moment * theirs,
        )


def own_residuals(image: Side, text: Side) -> Tensor:
    """e_ii of each pair, [B]."""
    own = torch.linalg.vecdot(image.features, text.features)
    if image.reference:
        each = zip(image.reference, text.reference, strict=True)
        own = own - torch.stack([torch.linalg.vecdot(*pair) for pair in each]).amin(0)
    return own


def log_sums(
    rows: Side, columns: Side, own: Tensor, start: int, stop: int
) -> tuple[LogSums, LogSums]:
    """Sum over the rows ``start`` to ``stop`` of the matrix.

    Gives the whole sums of these rows' anchors, [stop − start], and of every column's anchor the
    part that these rows are, [B].
    """
    of_rows: list[LogSums] = []
    of_columns: LogSums | None = None
    for first, last, residual, scratch in tiles(rows, columns, start, stop):
        each = slice(first, last)
        tile = residual, scratch, first
        of_rows.append(_sums(*tile, own[each, None], rows.tau[each, None], dim=1))
        part = _sums(*tile, own, columns.tau, dim=0)
        of_columns = part if of_columns is None else of_columns.merged(part)
    assert of_columns is not None, "a batch has pairs"  # noqa: S101
    return LogSums.unstacked(torch.cat([sums.stacked() for sums in of_rows])), of_columns


def _sums(
    residual: Tensor, scratch: Tensor, first: int, own: Tensor, tau: Tensor, dim: int
) -> LogSums:
    peak = residual.amax(dim, keepdim=True).clamp_(min=_LOWEST)
    weight = torch.addcmul(-peak / tau, residual, 1 / tau, out=scratch).exp_()
    total = weight.sum(dim)
    weight.mul_(residual).diagonal(first).zero_()  # 0 times −∞ is not 0
    own, tau, peak = own.squeeze(dim), tau.squeeze(dim), peak.squeeze(dim)
    return LogSums((peak - own) / tau, total, (weight.sum(dim) - total * own) / tau)


def weighted_sums(
    rows: Side,
    columns: Side,
    own: Tensor,
    row_shift: Tensor,
    column_shift: Tensor,
    start: int,
    stop: int,
    *,
    both: bool,
) -> tuple[Tensor, Tensor | None]:
    """Sum features with the weights w_ij = exp(d_ij − row shift) + exp(d_ji − column shift), [B].

    Gives Σ_j w_ij (features of column j) for the rows i from ``start`` to ``stop``,
    [stop − start, d], and with ``both`` Σ_i w_ij (features of row i) over these rows, [B, d].
    """
    of_rows = torch.empty_like(rows.features[start:stop])
    of_columns = torch.zeros_like(columns.features) if both else None
    by_row, by_column = 1 / rows.tau[:, None], 1 / columns.tau
    below_row = -own[:, None] * by_row - row_shift[:, None]
    below_column = -own * by_column - column_shift
    for first, last, residual, weight in tiles(rows, columns, start, stop):
        each = slice(first, last)
        torch.addcmul(below_row[each], residual, by_row[each], out=weight).exp_()
        weight += torch.addcmul(below_column, residual, by_column, out=residual).exp_()
        torch.mm(weight, columns.features, out=of_rows[first - start : last - start])
        if of_columns is not None:
            of_columns.addmm_(weight.T, rows.features[each])
    return of_rows, of_columns


def tiles(
    rows: Side, columns: Side, start: int, stop: int
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Return e of the rows ``start`` to ``stop`` over all columns, some rows at a time.

    Gives the first row, the row after the last, e, [rows, B], which is −∞ for own pairs, and a
    scratch tensor of its size. Both are buffers that are used again, and may be written into.
    """
    count = len(columns.features)
    numbers = _CPU_NUMBERS if rows.features.device.type == "cpu" else _GPU_NUMBERS
    height = max(1, min(stop - start, numbers // count))
    references = list(zip(rows.reference, columns.reference, strict=True))
    buffers = rows.features.new_empty(3 if len(references) > 1 else 2, height, count)
    for first in range(start, stop, height):
        last = min(stop, first + height)
        residual, scratch, *smallest = buffers[:, : last - first]
        torch.mm(rows.features[first:last], columns.features.T, out=residual)
        if len(references) == 1:
            residual.addmm_(rows.reference[0][first:last], columns.reference[0].T, alpha=-1)
        for below in smallest:
            below.fill_(math.inf)
            for row, column in references:
                torch.minimum(below, torch.mm(row[first:last], column.T, out=scratch), out=below)
            residual -= below
        residual.diagonal(first).fill_(-math.inf)
        yield first, last, residual, scratch
