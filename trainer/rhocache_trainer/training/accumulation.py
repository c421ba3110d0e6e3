"""A contrastive loss over a batch that a model takes in several parts.

The loss needs the features of all pairs at once, so gradients of parts can't just be added up.
Either all parts' activations are kept, or, as in GradCache (Gao et al. 2021), the parts are encoded
twice: without activations for the loss, which gives the gradients by the features, and again, part
by part, to bring these gradients to the parameters. The gradients are the same.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Any, Protocol, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from rhocache_schemas.documents import Strict
from rhocache_trainer.settings import Positive

Part = TypeVar("Part")
Features = dict[str, Tensor]  # by name: [b, d] of a part's pairs, or 0-dim like a logit scale


class Accumulation(Strict):
    """A batch in parts, for one that a device can't hold the activations of."""

    parts: Positive = 1
    recompute: Annotated[
        bool, Field(description="encode twice, and hold the activations of one part at a time")
    ] = True


class HasLoss(Protocol):
    @property
    def loss(self) -> Tensor: ...


Output = TypeVar("Output", bound=HasLoss)


def backward_in_parts(
    encode: Callable[[Part], Features],
    parts: Sequence[Part],
    objective: Callable[[Features], Output],
    *,
    recompute: bool,
    model: nn.Module | None = None,
    backward: Callable[[Tensor], Any] = torch.Tensor.backward,
    no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Output:
    """Encode the parts, take the objective of all of their features, and go backward.

    Args:
        encode: the model; called once for each part, and twice with ``recompute``: then with the
            random state and the buffers of the first time, so that dropout is the same and
            BatchNorm's statistics move once.
        objective: takes the features of all parts, concatenated; what it gives has a ``loss``.
        recompute: keep the activations of one part at a time.
        model: whose buffers are meant. Without it hooks find the modules that ``encode`` calls, of
            which torch warns where one is compiled.
        backward: as ``Fabric.backward``.
        no_sync: a context in which DistributedDataParallel does not reduce gradients; entered for
            every part but the last.
    """
    if not recompute or len(parts) == 1:
        out = objective(joined([encode(part) for part in parts]))
        backward(out.loss)
        return out
    states: list[list[Tensor]] = []
    encoded: list[Features] = []
    with torch.no_grad(), _leaving_buffers(model):
        for part in parts:
            states.append(_random_state())
            encoded.append(encode(part))
    leaves = {name: value.detach().requires_grad_() for name, value in joined(encoded).items()}
    out = objective(leaves)
    backward(out.loss)
    start = 0
    for number, (part, state) in enumerate(zip(parts, states, strict=True)):
        last = number == len(parts) - 1
        with nullcontext() if last else no_sync(), _with_random_state(state):
            features = encode(part)
            size = max(len(value) for value in features.values() if value.ndim)
            backward(_pairing(features, leaves, slice(start, start + size), scalars=last))
        start += size
    return out


def joined(encoded: Sequence[Features]) -> Features:
    """The features of all parts as those of one; what is 0-dim is the last one's."""
    return {
        name: torch.cat([features[name] for features in encoded]) if value.ndim else value
        for name, value in encoded[-1].items()
    }


def _pairing(features: Features, leaves: Features, rows: slice, *, scalars: bool) -> Tensor:
    """Σ feature · its gradient: its own gradient by the parameters is what is wanted."""
    total: list[Tensor] = []
    for name, value in features.items():
        gradient = leaves[name].grad
        if gradient is not None and value.requires_grad:
            if value.ndim:
                total.append((value * gradient[rows]).sum())
            elif scalars:
                total.append(value * gradient)
    return sum(total[1:], total[0])


@contextmanager
def _leaving_buffers(model: nn.Module | None) -> Generator[None]:
    """Put the buffers of ``model``, or of any module that is called, back as they were at first."""
    kept: dict[Tensor, Tensor] = {}

    def keep(module: nn.Module, _: Any = None) -> None:
        for buffer in module.buffers():
            if buffer not in kept:
                kept[buffer] = buffer.clone()

    if model is not None:
        keep(model)
    hook = register_module_forward_pre_hook(keep) if model is None else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
        for buffer, before in kept.items():
            buffer.copy_(before)


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


@contextmanager
def _with_random_state(state: list[Tensor]) -> Generator[None]:
    now = _random_state()
    _set_random_state(state)
    try:
        yield
    finally:
        _set_random_state(now)


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    torch.cuda.set_rng_state_all(state[1:])
