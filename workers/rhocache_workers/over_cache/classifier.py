"""A classifier that somebody has exported with torch.export: what it takes, and its logits."""

import hashlib
import io
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree

from rhocache_schemas import storage
from rhocache_schemas.errors import InvalidInput
from rhocache_workers.reference.model import quiet

_EMBEDDINGS, _PICTURES = 1024, 64  # at once, where the program takes any number
_LEAF = _pytree.tree_structure(0)
_ONE_TENSOR = _pytree.tree_structure(((0,), {}))  # of positional and keyword arguments
Logits = npt.NDArray[np.float64]  # [n, classes]
_HOW = "export a module in evaluation mode with torch.export.export and torch.export.save"


@dataclass(frozen=True, slots=True)
class Classifier:
    location: str
    shape: tuple[int, ...]  # of one input: [d], or [3, height, width]
    classes: int
    least: int  # inputs that it takes at once
    most: int
    module: Any
    device: str

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the pictures that it takes; None where it takes embeddings."""
        return None if len(self.shape) == 1 else (self.shape[1], self.shape[2])

    def try_out(self) -> None:
        """Raises InvalidInput where it fails on an input of zeros."""
        self.logits(torch.zeros(1, *self.shape))

    @torch.inference_mode()
    def logits(self, inputs: Tensor) -> Logits:
        """Return [n, classes] of float32 [n, ...]. Raises InvalidInput where the program fails."""
        parts = [self._run(part) for part in inputs.split(self.most)]
        return np.concatenate([np.zeros((0, self.classes)), *parts])

    def _run(self, part: Tensor) -> Logits:
        short = self.least - len(part)
        filled = torch.cat([part, part[-1:].repeat_interleave(short, 0)]) if short > 0 else part
        try:
            found = self.module(filled.to(self.device))
        except Exception as error:  # whatever its author has written
            raise InvalidInput(
                f"{self.location} fails on {len(filled)} inputs: {_reason(error)}"
            ) from error
        if found.shape != (len(filled), self.classes):
            raise InvalidInput(
                f"{self.location} makes logits {list(found.shape)} of {len(filled)} inputs; "
                f"{[len(filled), self.classes]} would be right"
            )
        return found[: len(part)].double().cpu().numpy()


@lru_cache(maxsize=1)  # for a process that computes one group of shards after another
def load_classifier(location: str, sha256: str, dimension: int) -> Classifier:
    """Load the program with this hash, for a cache of this dimension. It can run code of its own.

    Raises InvalidInput for a file that is none or another one, and for a program that takes
    anything but embeddings or pictures or makes anything but logits; and StorageError.
    """
    data = storage.read_bytes(location)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InvalidInput(f"{location} has changed since this job began: run it again")
    program = _load(location, data)
    signature, values = program.graph_signature, _values(program)
    taken = [values.get(str(name)) for name in signature.user_inputs]
    made = [values.get(str(name), name) for name in signature.user_outputs]
    shape = _shape(*taken) if program.call_spec.in_spec == _ONE_TENSOR else ()
    picture = len(shape) == 4 and shape[1] == 3 and all(isinstance(n, int) for n in shape[2:])
    if not shape or not (picture or shape[1:] == (dimension,)):
        raise InvalidInput(
            f"{location} takes {_told(taken)}; a classifier takes one tensor, float32 "
            f"[B, {dimension}] of the cache's embeddings, or float32 [B, 3, height, width] of "
            "pictures"
        )
    logits = _shape(*made, floating=True) if program.call_spec.out_spec == _LEAF else ()
    if len(logits) != 2 or not isinstance(logits[1], int):
        raise InvalidInput(
            f"{location} makes {_told(made)}; a classifier makes one tensor, logits [B, classes]"
        )
    least, most = _batch(location, program, shape[0], _PICTURES if picture else _EMBEDDINGS)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = False  # on by default, and 1e-3 off
    with _silent():
        module = move_to_device_pass(program, device).module()
    return Classifier(location, shape[1:], logits[1], least, most, module, device)


def _load(location: str, data: bytes) -> ExportedProgram:
    try:
        with _silent():
            return torch.export.load(io.BytesIO(data))
    except Exception as error:  # it raises whatever damage leads to
        raise InvalidInput(
            f"{location} is no program that torch {torch.__version__} can load: {_HOW}; weights "
            f"and TorchScript are none ({_reason(error)})"
        ) from error


def _values(program: ExportedProgram) -> dict[str, Any]:
    return {node.name: node.meta.get("val") for node in program.graph.nodes}


def _shape(value: Any, *, floating: bool = False) -> tuple[Any, ...]:
    """The shape of a tensor, float32 or of any floating type; () for anything else."""
    if not isinstance(value, Tensor):
        return ()
    fits = value.dtype.is_floating_point if floating else value.dtype == torch.float32
    return tuple(value.shape) if fits else ()


def _batch(location: str, program: ExportedProgram, batch: Any, most: int) -> tuple[int, int]:
    """The smallest and largest batch that it is given: the same where it was exported for one."""
    if isinstance(batch, int):
        return batch, batch
    within = program.range_constraints.get(batch.node.expr)
    if within is None:
        raise InvalidInput(
            f"{location} takes batches of {batch}; the batch dimension is a number, or dynamic: "
            'dynamic_shapes=({0: torch.export.Dim("batch")},)'
        )
    return max(1, int(within.lower)), most if within.upper > most else int(within.upper)


def _told(values: Sequence[Any]) -> str:
    return " and ".join(map(_tell, values)) or "nothing"


def _tell(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    sizes: list[Any] = [*value.shape]
    shown = ", ".join(str(each) if isinstance(each, int) else "B" for each in sizes)
    return f"{str(value.dtype).removeprefix('torch.')} [{shown}]"


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def _silent() -> Generator[None]:
    """torch tells what it thinks of a file in warnings and on its loggers."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
