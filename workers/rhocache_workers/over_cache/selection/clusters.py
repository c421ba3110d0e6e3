"""Balances a selection over clusters of its images."""

from collections.abc import Iterator
from typing import Any

import faiss as _faiss
import numpy as np
import numpy.typing as npt

from rhocache_workers.over_cache.selection.draws import permutation, priorities

faiss: Any = _faiss  # whose Python side is made at run time, where no checker sees it

_TRAINING = 256  # images a cluster that the centroids are found with, at most
_ROUNDS = 20
_BLOCK = 65_536
_SAMPLE, _ORDER = 1 << 20, (1 << 20) + 1  # streams of a seed that no batch has


def assign(
    image: npt.NDArray[Any], chosen: npt.NDArray[np.int64], clusters: int, seed: int
) -> npt.NDArray[np.int64]:
    """Return the cluster of each ``chosen`` [n] of the images [m, d], from 0 on.

    Spherical k-means, by cosine: its centroids are found with at most 256 images a cluster.
    """
    sample = np.sort(permutation(len(chosen), seed, _SAMPLE)[: _TRAINING * clusters])
    means = faiss.Kmeans(
        image.shape[1],
        clusters,
        niter=_ROUNDS,
        seed=seed % 2**31,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=_TRAINING,
    )
    means.train(np.asarray(image[chosen[sample]], np.float32))
    return np.concatenate(list(_nearest(image, chosen, means.index)))


def balance(
    cluster: npt.NDArray[np.int64], size: int, exponent: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Choose ``size`` of n pairs at random, as many of each cluster as ``caps`` has. Return [n]."""
    most = caps(np.bincount(cluster), size, exponent)
    order = np.lexsort((priorities(len(cluster), seed, _ORDER), cluster))
    ordered = cluster[order]
    first = np.searchsorted(ordered, np.arange(len(most)))
    keep = np.empty(len(cluster), np.bool_)
    keep[order] = np.arange(len(cluster)) - first[ordered] < most[ordered]
    return keep


def caps(sizes: npt.NDArray[np.int64], size: int, exponent: float) -> npt.NDArray[np.int64]:
    """How many of each cluster to choose, ``size`` in all: min(n_c, λ n_c^α), rounded.

    α = 1 is in proportion; α = 0 one cap on all, as MetaCLIP has on its entries (Xu et al., arXiv
    2309.16671); between them caps are soft, by the exponent with which XLM-R samples languages
    (Conneau et al., arXiv 1911.02116).
    """
    if size >= sizes.sum():
        return sizes
    share = np.where(sizes > 0, sizes.astype(np.float64) ** exponent, 0.0)
    order = np.argsort(sizes, kind="stable")  # in which clusters run out as λ grows
    taken = np.concatenate([[0], np.cumsum(sizes[order])[:-1]])
    rest = np.cumsum(share[order][::-1])[::-1]  # of those that have not
    scale = (size - taken) / np.where(rest > 0, rest, np.inf)
    full = scale * share[order] >= sizes[order]
    scale_found = scale[np.argmin(full)]
    wanted = np.minimum(sizes, scale_found * share)
    whole = np.floor(wanted).astype(np.int64)
    left = size - int(whole.sum())
    most_cut = np.argsort(whole - wanted, kind="stable")[:left]
    whole[most_cut] += 1
    return whole


def _nearest(
    image: npt.NDArray[Any], chosen: npt.NDArray[np.int64], index: Any
) -> Iterator[npt.NDArray[np.int64]]:
    for first in range(0, len(chosen), _BLOCK):
        block = np.asarray(image[chosen[first : first + _BLOCK]], np.float32)
        yield index.search(block, 1)[1][:, 0]
