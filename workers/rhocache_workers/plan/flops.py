"""What a reference computes for an image and for a caption, counted without its weights."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from rhocache_workers.reference.image_tower import can_be_trimmed, encode_trimmed
from rhocache_workers.reference.model import (
    need_transformers,
    open_clip_name,
    refuse_code,
    refusing,
)
from rhocache_workers.reference.packed_blocks import MIN_ROWS
from rhocache_workers.reference.text_tower import can_be_cut, cut_lengths, encode_packed


class Outline:
    """An architecture on torch's meta device: its shapes can be run, but it holds no numbers.

    A multiplication and an addition are two floating-point operations. What is counted is a part
    of a batch that needs no filling up.
    """

    def __init__(self, model: str, pretrained: str | None = None) -> None:
        """Raises ReferenceUnavailable, and MissingExtra where transformers is needed."""
        self._name = open_clip_name(model, pretrained)
        with self._refusing():
            config: Any = open_clip.get_model_config(self._name)
            refuse_code(config)
            need_transformers(self._name, config)
            self._model = _on_meta(self._name)
        self.dimension = int(config["embed_dim"])
        # As its tokenizer will have it; the tower's own limit may be another, or none.
        self.context_length = int(config["text_cfg"].get("context_length", DEFAULT_CONTEXT_LENGTH))

    def image_flops(self) -> int:
        """Count what an image takes, where encoders compute no more than its embedding needs."""
        visual = self._model.visual
        size = visual.image_size
        height, width = (size, size) if isinstance(size, int) else size
        images = torch.empty(MIN_ROWS, 3, height, width, device="meta")
        if can_be_trimmed(self._model):
            return _count(lambda: encode_trimmed(visual, images)) // MIN_ROWS
        return _count(lambda: self._model.encode_image(images)) // MIN_ROWS

    def text_flops(self, length: int) -> int:
        """Count what a caption of ``length`` positions takes, at most the context length."""
        texts = torch.zeros(MIN_ROWS, length, dtype=torch.int64, device="meta")
        if can_be_cut(self._model):
            packed, lengths = texts.flatten(), [length] * MIN_ROWS
            return _count(lambda: encode_packed(self._model, packed, packed, lengths)) // MIN_ROWS
        return _count(lambda: self._model.encode_text(texts)) // MIN_ROWS

    def text_lengths(self, captions: Sequence[str]) -> list[int]:
        """Positions that encoders run for each caption: to its end token where that is exact.

        Raises ReferenceUnavailable when the tokenizer can't be loaded.
        """
        if not can_be_cut(self._model):
            return [self.context_length] * len(captions)
        with self._refusing():
            tokenizer: Any = open_clip.get_tokenizer(self._name)
            tokens = tokenizer(captions)
        return cut_lengths(self._model, tokens).tolist()

    def _refusing(self) -> AbstractContextManager[None]:
        return refusing(f"cannot load {self._name}")


class _NoNumbers(TorchDispatchMode):
    """Answers a tower that asks for a number of a tensor that has none, as of masks: with zero."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return torch.zeros((), dtype=args[0].dtype).item()
        return func(*args, **(kwargs or {}))


def _on_meta(name: str) -> Any:
    with torch.device("meta"):
        model: Any = open_clip.create_model(
            name, device="meta", load_weights=False, pretrained_text=False
        )
    return model.eval().requires_grad_(False)


def _count(encode: Callable[[], Tensor]) -> int:
    # On the meta device attention never takes the fused CPU kernel, which has no formula.
    with torch.no_grad(), _NoNumbers(), FlopCounterMode(display=False) as counter:
        encode()
    return counter.get_total_flops()
