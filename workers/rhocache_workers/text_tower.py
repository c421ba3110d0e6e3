"""A reference's text tower, run on no more positions than its captions need."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

# Lengths are rounded up to this: full vector registers, and few shapes to plan kernels for.
BUCKET = 8
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}  # of unit vectors


class TextTower(nn.Module):
    """``encode_text`` of an open_clip model, with sequences cut after their last end token.

    In a causal tower that reads the embedding at the end token, nothing after that token counts.
    ``cuts`` tells whether this tower is such a one, by its architecture and by what it makes of
    ``probe`` (tokens, int64 [B, context]) both ways; others get their whole context.
    """

    def __init__(self, model: Any, probe: Tensor) -> None:
        super().__init__()
        self.model = model
        self._name = "model.text" if hasattr(model, "text") else "model"
        self.cuts = can_be_cut(model)
        self.cuts = self.cuts and self._cutting_is_exact(probe)

    def lengths(self, tokens: Tensor) -> Tensor:
        """The positions that each of B texts gets, int64 [B], for tokens int64 [B, context]."""
        if self.cuts:
            return cut_lengths(self.model, tokens)
        return torch.full((len(tokens),), tokens.shape[1])

    def encode(self, tokens: Tensor) -> Tensor:
        """Embed B texts, int64 [B, context]: [B, d], not normalised, on the tower's device."""
        tokens = tokens.to(next(self.model.parameters()).device)
        if not self.cuts:
            return self(tokens)
        length = int(self.lengths(tokens).max())
        text = text_module(self.model)
        parts = {
            f"{self._name}.positional_embedding": text.positional_embedding[:length],
            f"{self._name}.attn_mask": text.attn_mask[:length, :length],
        }
        return functional_call(self, parts, (tokens[:, :length],))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens, normalize=False)

    @torch.inference_mode()
    def _cutting_is_exact(self, probe: Tensor) -> bool:
        cut = torch.cat([self.encode(text[None]) for text in probe])
        whole = self(probe.to(cut.device))
        difference = (_unit(cut) - _unit(whole)).abs().max()
        return bool(difference <= _TOLERANCE[cut.dtype])


def text_module(model: Any) -> Any:
    """The part of an open_clip model that embeds texts, which may be the model itself."""
    return getattr(model, "text", model)


def can_be_cut(model: Any) -> bool:
    """Whether the text tower is causal and reads the embedding at the end token."""
    text = text_module(model)
    return (
        getattr(text, "attn_mask", None) is not None
        and _pool(model) in ("argmax", "eos")
        and getattr(text, "cls_emb", None) is None  # CoCa's stands after the padding
    )


def cut_lengths(model: Any, tokens: Tensor) -> Tensor:
    """The positions up to each end token, rounded up: int64 [B] for int64 [B, context]."""
    if _pool(model) == "argmax":
        ends = tokens.argmax(dim=1)
    else:
        end = getattr(model, "text_eos_id", None) or text_module(model).eos_id
        ends = (tokens == end).int().argmax(dim=1)
    return (ends // BUCKET + 1).mul(BUCKET).clamp(max=tokens.shape[1])


def _pool(model: Any) -> str | None:
    return getattr(model, "text_pool_type", getattr(text_module(model), "pool_type", None))


def _unit(features: Tensor) -> Tensor:
    return nn.functional.normalize(features.float(), dim=-1)
