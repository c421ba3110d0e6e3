"""Pairs as a CLIP sees them: what every measure works on."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class EmbeddedImages:
    """The images of n usable pairs, in the order of shards and of pairs in them."""

    features: Tensor  # float32 [n, d], unit vectors
    captions: Sequence[Hashable]  # [n], equal where two pairs have the same caption
    classes: Sequence[str | None]  # [n]
    places: Sequence[tuple[str, str]]  # [n], (shard, key)
    skipped: int  # pairs that could not be used


@dataclass(frozen=True, slots=True)
class EmbeddedCaptions:
    """The m different captions of some pairs."""

    features: Tensor  # float32 [m, d], unit vectors
    captions: Sequence[Hashable]  # [m]
