"""Losses whose gradients are formulas, and not what autograd would make of their values."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from rhocache_schemas.errors import InvalidInput


def with_gradients(value: Tensor, *gradients: tuple[Tensor, Tensor]) -> Tensor:
    """``value``, 0-dim, whose gradients by tensors are those that are given, of the same shapes.

    Its second derivatives raise InvalidInput: the formulas hold the weights fixed, so that autograd
    would silently leave out a part.
    """
    return _WithGradients.apply(value, *(each for pair in gradients for each in pair))  # pyright: ignore


class _WithGradients(Function):
    @staticmethod
    def forward(value: Tensor, *pairs: Tensor) -> Tensor:  # noqa: ARG004
        return value.detach().clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        results: list[Tensor | None] = [None]
        for at, gradient in zip(saved[::2], saved[1::2], strict=True):
            result = (grads[0] * gradient).to(at.dtype)
            if torch.is_grad_enabled():  # create_graph=True
                result = _FirstOrder.apply(result, at)
            results += [result, None]
        return tuple(results)


class _FirstOrder(Function):
    """A gradient taken at a point, that can't be differentiated by it."""

    @staticmethod
    def forward(gradient: Tensor, at: Tensor) -> Tensor:  # noqa: ARG004
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:  # noqa: ARG004
        raise InvalidInput(
            "the loss has first derivatives alone: a gradient that was taken with "
            "create_graph=True can't be differentiated again"
        )
