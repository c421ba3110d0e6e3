"""The machine that a benchmark ran on, and what it can do at most."""

import importlib.metadata
import platform
import time
from pathlib import Path

import psutil

SIDE = 4096


def describe(device: str = "cpu") -> str:
    if device == "cuda":
        import torch

        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    model = platform.processor() or "CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
            break
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{model}, {psutil.cpu_count()} cores, {memory:.0f} GiB, "
        f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}"
    )


def peak_memory(device: str = "cpu") -> float:
    """Of this process, in MB. In ``ru_maxrss`` there may be that of the process it came from."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit("this system does not tell a process's peak memory")


def forget_peak_memory(device: str = "cpu") -> float:
    """Let ``peak_memory`` tell of what comes from now on; give what is taken now, in MB."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return peak_memory(device)
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def wait_for(device: str) -> None:
    """Until what was asked of a GPU is done, so that a clock may be read."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def product_rate(device: str = "cpu") -> float:
    """Floating-point operations a second of a large float32 product: the best of a second."""
    import torch  # what uses no torch can be described without it

    a, b = torch.randn(2, SIDE, SIDE, device=device)
    best, until = 0.0, time.perf_counter() + 1.5
    while time.perf_counter() < until:
        started = time.perf_counter()
        torch.mm(a, b)
        wait_for(device)
        best = max(best, 2 * SIDE**3 / (time.perf_counter() - started))
    return best
