"""A reference's image tower, whose last block computes no patch that nothing is read from."""

from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor

from rhocache_workers.reference.packed_blocks import agree, can_run, filled, run_blocks


class ImageTower:
    """``encode_image`` of an open_clip model.

    Where embeddings are read from the class token, the last block needs the others' keys and
    values alone. ``trims`` tells whether this tower is such a one, by its architecture and by what
    it makes of an image both ways.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.trims = can_be_trimmed(model)
        if self.trims:
            with torch.inference_mode():
                image = _noise(model.visual)
                whole = model.encode_image(image, normalize=False)
                self.trims = agree(self.encode(image), whole)

    def encode(self, pixels: Tensor) -> Tensor:
        """Embed B normalised images, [B, 3, height, width]: [B, d], not to unit length."""
        if self.trims:
            return encode_trimmed(self._model.visual, pixels)
        return self._model.encode_image(pixels, normalize=False)


def can_be_trimmed(model: Any) -> bool:
    """Whether the image tower is a plain transformer that reads the embedding at a class token."""
    visual = model.visual
    return (
        type(visual) is VisionTransformer
        and visual.pool_type == "tok"
        and visual.attn_pool is None
        and can_run(visual.transformer)
    )


def encode_trimmed(visual: Any, pixels: Tensor) -> Tensor:
    x = visual._embeds(pixels)
    images, positions, _ = x.shape
    class_tokens = filled(torch.arange(images, device=x.device) * positions)
    lengths = [positions] * images
    x = run_blocks(visual.transformer, x.flatten(0, 1), lengths, class_tokens, causal=False)
    return (visual._pool(x[:, None])[0] @ visual.proj)[:images]


def _noise(visual: Any) -> Tensor:
    image = torch.randn(1, 3, *visual.image_size, generator=torch.Generator().manual_seed(0))
    return image.to(visual.conv1.weight)
