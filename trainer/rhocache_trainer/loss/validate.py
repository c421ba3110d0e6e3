"""Checks a batch before a loss lets it change any state."""

import torch
from torch import Tensor

from rhocache_schemas.errors import InvalidInput

# Largest |norm − 1|. Features normalised in bfloat16 (half a unit in the last place: 2⁻⁹, once for
# the norm and once for each entry) may arrive here as float32, so the dtype says nothing.
_TOLERANCE = 1e-2

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_features(image: str, text: str, image_features: Tensor, text_features: Tensor) -> None:
    """Refuse anything but two [B, d] tensors of unit vectors with B ≥ 1.

    ``image`` and ``text`` are what the messages call them. Raises InvalidInput.
    """
    for name, features in ((image, image_features), (text, text_features)):
        if features.ndim != 2 or features.dtype not in FLOATS:
            raise InvalidInput(
                f"{name} features must be floating point [B, d], not {features.dtype} "
                f"{list(features.shape)}"
            )
    if image_features.shape != text_features.shape:
        raise InvalidInput(
            f"{image} features are {list(image_features.shape)} but {text} features are "
            f"{list(text_features.shape)}; both must be [B, d]"
        )
    if not len(image_features):
        raise InvalidInput(f"{image} features are of no pair at all")
    for name, features in ((image, image_features), (text, text_features)):
        _check_unit(name, features.detach())


def check_index(index: Tensor, batch: int, n: int) -> None:
    """Refuse anything but ``batch`` different int64 numbers from 0 to n−1. Raises InvalidInput."""
    if index.shape != (batch,) or index.dtype != torch.int64:
        raise InvalidInput(
            f"index must be int64 [{batch}], one for each pair, not {index.dtype} "
            f"{list(index.shape)}"
        )
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= n:
        wrong = low if low < 0 else high
        raise InvalidInput(f"index {wrong} is out of range: the loss was made for n={n} pairs")
    values, counts = index.unique(return_counts=True)
    if len(values) < batch:
        repeated = int(values[counts.argmax()])
        raise InvalidInput(f"index {repeated} comes {int(counts.max())} times in one batch")


def check_gamma(gamma: float) -> float:
    """Refuse a weight of new estimates outside (0, 1]. Raises InvalidInput."""
    if not 0 < gamma <= 1:
        raise InvalidInput(f"gamma={gamma} must lie in (0, 1]")
    return float(gamma)


def _check_unit(name: str, features: Tensor) -> None:
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    norms = torch.linalg.vector_norm(wide, dim=1)
    good = (norms - 1).abs() <= _TOLERANCE  # False for NaN
    if good.all():
        return
    row = int((~good).int().argmax())
    if not torch.isfinite(wide[row]).all():
        raise InvalidInput(f"{name} features hold NaN or infinity in row {row}")
    raise InvalidInput(
        f"{name} features must be unit vectors, but row {row} has norm {float(norms[row]):.4g}; "
        "use torch.nn.functional.normalize"
    )
