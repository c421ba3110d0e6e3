"""Scores by which pairs are selected: negCLIPLoss and NormSim of Wang et al. (arXiv 2405.19547).

Embeddings are unit vectors [m, d] of any floating type, in memory or mapped from a file, of which
``chosen`` [n] names some, ascending: a batch of them is made float32 at a time.
"""

import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rhocache_workers.over_cache.selection.draws import permutation

Vectors = npt.NDArray[Any]
Numbers = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Norm = Literal["2", "inf"]

_TILE = 2048  # rows of a batch's matrix that are there at a time


def neg_clip_loss(
    image: Vectors,
    text: Vectors,
    chosen: Numbers,
    *,
    tau: float,
    batch: int,
    batches: int,
    seed: int,
) -> Scores:
    """Return s_ii − R_i of each pair [n], with s_ij the cosine of image i and text j.

    R_i is the mean, over ``batches`` random batches B that hold i, of τ/2 times
    log Σ_{j∈B} exp(s_ij/τ) + log Σ_{j∈B} exp(s_ji/τ): the contrastive loss of i in such a batch
    times −τ. The n pairs are shared out anew each time, to batches of ``batch`` or a little less.
    """
    n = len(chosen)
    own, normaliser = np.zeros(n), np.zeros(n)
    for number in range(batches):
        order = permutation(n, seed, number)
        for part in np.array_split(order, math.ceil(n / batch)):
            rows = np.sort(part)  # read in order
            images, texts = (_float(each[chosen[rows]]) for each in (image, text))
            own[rows] = (images * texts).sum(1, dtype=torch.float64).cpu().numpy()
            sums = _log_sums(images / tau, texts)
            normaliser[rows] += tau / 2 * sums.cpu().numpy()
    return own - normaliser / batches


def norm_sim(image: Vectors, chosen: Numbers, targets: Iterable[Vectors], norm: Norm) -> Scores:
    """Return the p-norm of each image's cosines with all targets, [n].

    p = ∞ is the cosine of the nearest target. ``targets`` are blocks [b, d] of them.
    """
    dimension = image.shape[1]
    found = torch.zeros(len(chosen), dtype=torch.float64)
    if norm == "2":  # |Tx|² = x'(T'T)x, whatever the number of targets
        gram = torch.zeros(dimension, dimension, dtype=torch.float64)
        for block in targets:
            each = torch.from_numpy(np.asarray(block, np.float64))
            gram += each.T @ each
        for first in range(0, len(chosen), _TILE):
            part = image[chosen[first : first + _TILE]]
            rows = torch.from_numpy(np.asarray(part, np.float64))
            found[first : first + _TILE] = ((rows @ gram) * rows).sum(1).clamp(min=0).sqrt()
        return found.numpy()
    for block in targets:
        each = _float(block)
        for first in range(0, len(chosen), _TILE):
            near = (
                (_float(image[chosen[first : first + _TILE]]) @ each.T).abs().amax(1).cpu().double()
            )
            part = found[first : first + _TILE]
            torch.maximum(part, near, out=part)
    return found.numpy()


def _log_sums(image: Tensor, text: Tensor) -> Tensor:
    """Of a batch's matrix the logsumexp of each row and that of its column, added; float64."""
    total = torch.empty(len(image), dtype=torch.float64, device=image.device)
    columns = torch.full_like(total, -math.inf)
    for first in range(0, len(image), _TILE):
        logits = image[first : first + _TILE] @ text.T
        total[first : first + _TILE] = logits.logsumexp(1)
        columns = torch.logaddexp(columns, logits.logsumexp(0).double())
    return total + columns


def _float(rows: Vectors) -> Tensor:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.from_numpy(np.asarray(rows, np.float32)).to(device)
