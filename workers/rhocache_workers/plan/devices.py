"""How fast devices multiply matrices, and how much of that an encoder gets."""

import re
import time
from dataclasses import dataclass
from typing import get_args

import torch
from open_clip.model import get_input_dtype

from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.reference import Precision

# Dense FLOP/s of the data sheets (SXM boards of H100 and A100). In fp32 torch does not use the
# tensor cores' TF32 for matrix products.
PEAKS: dict[str, dict[str, float]] = {
    "h100": {"fp32": 67e12, "bf16": 989e12, "fp16": 989e12},
    "a100": {"fp32": 19.5e12, "bf16": 312e12, "fp16": 312e12},
    "l4": {"fp32": 30.3e12, "bf16": 121e12, "fp16": 121e12},
}
# The share of its peak that we expect of both towers. Only that of cpu was measured; the faster
# a device multiplies, the more of its time goes to everything else.
UTILISATION = {"cpu": 0.65, "h100": 0.35, "a100": 0.45, "l4": 0.45}

_SIDE = 2048  # of the largest matrices that calibrate a CPU
_QUICK_SECONDS = 0.1  # that a product may take before a larger one is tried


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    peak_flops: float  # a second
    utilisation: float  # expected share of the peak

    @property
    def flops(self) -> float:
        """Expected operations a second."""
        return self.peak_flops * self.utilisation


def find_device(name: str | None, precision: str) -> Device:
    """Look a device up by its name; None is this machine's. A ``cpu`` is calibrated here and now.

    Raises InvalidInput for a name that is not one of UTILISATION, or no Precision.
    """
    name = name or device_here()
    if precision not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        raise InvalidInput(f"precision {precision!r} is not one of {known}")
    if name not in UTILISATION:
        raise InvalidInput(f"device {name!r} is not one of {', '.join(UTILISATION)}")
    peak = PEAKS[name][precision] if name in PEAKS else _matrix_product(precision)
    return Device(name, peak, UTILISATION[name])


def device_here() -> str:
    """Return ``cpu``, or this machine's first GPU: its name here, or its own where it has none."""
    if not torch.cuda.is_available():
        return "cpu"
    product = torch.cuda.get_device_name()
    words = re.split(r"[\s-]+", product.lower())
    return next((name for name in PEAKS if name in words), product)


def _matrix_product(precision: str) -> float:
    """FLOP/s of a large matrix product on this CPU, with all the threads that torch takes.

    Matrices grow only while that is quick: some CPUs emulate half precision, slowly.
    """
    rate, side = 0.0, 256
    while side <= _SIDE:
        matrix = torch.rand(side, side, dtype=get_input_dtype(precision) or torch.float32)
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            torch.mm(matrix, matrix)
            seconds.append(time.perf_counter() - started)
        rate = 2 * side**3 / min(seconds)
        if min(seconds) > _QUICK_SECONDS:
            break
        side *= 2
    return rate
