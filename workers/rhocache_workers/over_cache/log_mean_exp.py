"""Means over columns of exp((s_ij − s_ii) / τ), a tile of the matrix of similarities at a time.

The tile is multiplied, shifted, scaled, exponentiated and summed while it is in the processor's
cache, so that what is not the matrix product costs little, and n rows need memory for n sums.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

_DEPTH = 64  # dimensions that are multiplied at a time: float32 sums of more lose half a digit
TILES = {"cpu": (512, 1024), "cuda": (8192, 16384)}  # rows, columns
# The least temperature at which float32 similarities, which err by some 1e-7, are enough for losses
# that are exact to 1e-5: they are divided by it.
_SINGLE = 0.02
_LARGEST = 1e18  # of a tile's sums, whose squares are float32 too, before its maximum is subtracted
_CONFIDENCE = 1.959964  # standard deviations on both sides of the mean: 95 %


def tensor(rows: npt.NDArray[np.floating], tau: float) -> Tensor:
    """Return them on the GPU, if there is one, as exact as this temperature needs."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.from_numpy(rows).to(device, torch.float32 if tau >= _SINGLE else torch.float64)


class RowSums:
    """Of each row i, Σ exp((s_ij − o_i) / τ) over the columns j that were added, but its own.

    ``rows`` is float32 or float64 [R, d], ``own`` the similarity s_ii, float64 [R]. The offset o_i
    begins as s_ii: what is then too small for a float is nothing beside the own column's 1. Where a
    sum grows large, o_i becomes the row's maximum, so that no temperature is too small.
    """

    def __init__(self, rows: Tensor, own: Floats, tau: float, *, squares: bool = False) -> None:
        self._rows = rows
        self._scale = 1 / tau
        self._own = own
        self._offset = torch.from_numpy(own).to(
            rows.device, rows.dtype, copy=True
        )  # it will change
        self._sums = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        self._squares = torch.zeros_like(self._sums) if squares else None
        self._tile = TILES[rows.device.type]
        size = self._tile[0] * self._tile[1]
        self._buffer = torch.empty(size, device=rows.device, dtype=rows.dtype)

    def add(self, columns: Tensor, own_rows: Places, own_columns: Places) -> None:
        """Add columns, [C, d] as the rows; those of ``own_columns`` are the own of ``own_rows``."""
        height, width = self._tile
        for top in range(0, len(self._rows), height):
            bottom = min(top + height, len(self._rows))
            for left in range(0, len(columns), width):
                right = min(left + width, len(columns))
                inside = (own_rows >= top) & (own_rows < bottom)
                inside &= (own_columns >= left) & (own_columns < right)
                own = own_rows[inside] - top, own_columns[inside] - left
                self._add(slice(top, bottom), columns[left:right], own)

    def _add(self, rows: slice, columns: Tensor, own: tuple[Places, Places]) -> None:
        offset = self._offset[rows, None]
        tile = self._multiply(rows, columns, own)
        sums = tile.sub_(offset).mul_(self._scale).exp_().sum(1)
        if bool((sums > _LARGEST).any()):
            tile = self._multiply(rows, columns, own)
            largest = torch.maximum(offset, tile.amax(1, keepdim=True))
            shrunk = ((offset - largest).double() * self._scale).exp()[:, 0]
            self._sums[rows] *= shrunk
            if self._squares is not None:
                self._squares[rows] *= shrunk.square()
            self._offset[rows] = largest[:, 0]
            sums = tile.sub_(largest).mul_(self._scale).exp_().sum(1)
        self._sums[rows] += sums
        if self._squares is not None:
            self._squares[rows] += tile.square_().sum(1)

    def _multiply(self, rows: slice, columns: Tensor, own: tuple[Places, Places]) -> Tensor:
        """The similarities of a tile, and −∞ where a row meets its own column."""
        height = rows.stop - rows.start
        tile = self._buffer[: height * len(columns)].view(height, len(columns))
        parts = zip(self._rows[rows].split(_DEPTH, 1), columns.split(_DEPTH, 1), strict=True)
        for place, (left, right) in enumerate(parts):
            torch.addmm(tile, left, right.T, beta=min(place, 1), out=tile)
        if len(own[0]):
            tile[own] = -torch.inf
        return tile

    def losses(self, n: int) -> Floats:
        """log (1/n) Σ_j exp((s_ij − s_ii) / τ) over all n columns j, the own one among them. [R]"""
        return self._with_own(_log(self._sums.cpu().numpy())) - np.log(n)

    def estimates(self, n: int, sampled: Floats) -> tuple[Floats, Floats]:
        """The same from a sample of the n − 1 other columns, drawn without replacement, of which
        ``sampled`` [R] were added; and half the width of a 95 % interval. [R] each

        The mean of exp is estimated without bias. Its standard error is carried over to its
        logarithm by the delta method, which holds where it is small beside the mean.
        """
        assert self._squares is not None  # noqa: S101 (they were asked for)
        mean = self._sums.cpu().numpy() / sampled
        spread = np.maximum(self._squares.cpu().numpy() / sampled - mean**2, 0)
        variance = spread / (sampled - 1) * (1 - sampled / (n - 1))
        whole = self._with_own(_log((n - 1) * mean))
        error = np.exp(_log((n - 1) * np.sqrt(variance)) + self._shift - whole)
        return whole - np.log(n), _CONFIDENCE * error

    def _with_own(self, others: Floats) -> Floats:
        """log (1 + e^others), where ``others`` have the offset, and what is returned s_ii."""
        return self._shift + np.logaddexp(-self._shift, others)

    @property
    def _shift(self) -> Floats:
        """(o_i − s_ii) / τ"""
        return (self._offset.double().cpu().numpy() - self._own) * self._scale


def _log(values: Floats) -> Floats:
    with np.errstate(divide="ignore"):  # of 0, which is no error here
        return np.log(values)
