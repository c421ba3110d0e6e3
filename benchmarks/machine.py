"""The machine that a benchmark ran on, and what it can do at most."""

import platform
import time
from pathlib import Path

import psutil
import torch

SIDE = 4096


def describe() -> str:
    model = platform.processor() or "CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
            break
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{model}, {psutil.cpu_count()} cores, {memory:.0f} GiB, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def product_rate() -> float:
    """Floating-point operations a second of a large float32 product: the best of a second."""
    a, b = torch.randn(2, SIDE, SIDE)
    best, until = 0.0, time.perf_counter() + 1.5
    while time.perf_counter() < until:
        started = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * SIDE**3 / (time.perf_counter() - started))
    return best
