"""A reference's text tower, run on no more positions than its captions have."""

from typing import Any

import torch
from torch import Tensor, nn

from rhocache_workers.reference.packed_blocks import MIN_ROWS, agree, can_run, filled, run_blocks


class TextTower:
    """``encode_text`` of an open_clip model, with captions cut after their end token.

    In a causal tower that reads the embedding at the end token, nothing after that token counts.
    ``cuts`` tells whether this tower is such a one, by its architecture and by what it makes of
    ``probe`` (tokens, int64 [B, context]) both ways; others get their whole context.
    """

    def __init__(self, model: Any, probe: Tensor) -> None:
        self._model = model
        self.cuts = can_be_cut(model)
        if self.cuts:
            with torch.inference_mode():
                whole = model.encode_text(probe.to(self._device), normalize=False)
                self.cuts = agree(self.encode(probe), whole)

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def lengths(self, tokens: Tensor) -> Tensor:
        """The positions that each of B texts takes, int64 [B], for tokens int64 [B, context]."""
        if self.cuts:
            return cut_lengths(self._model, tokens)
        return torch.full((len(tokens),), tokens.shape[1])

    def encode(self, tokens: Tensor) -> Tensor:
        """Embed B texts, int64 [B, context] on the CPU: [B, d], not to unit length.

        Those of one length should stand together.
        """
        if not self.cuts:
            return self._model.encode_text(tokens.to(self._device), normalize=False)
        texts = len(tokens)
        while (lengths := self.lengths(tokens)).sum() < MIN_ROWS:
            tokens = tokens.repeat(2, 1)
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        used = positions < lengths[:, None]
        packed, places = tokens[used].to(self._device), positions[used].to(self._device)
        return encode_packed(self._model, packed, places, lengths.tolist())[:texts]


def can_be_cut(model: Any) -> bool:
    """Whether the text tower is plain, causal, and reads the embedding at the end token."""
    text = text_module(model)
    return (
        getattr(text, "attn_mask", None) is not None
        and _pool(model) in ("argmax", "eos")
        and getattr(text, "cls_emb", None) is None  # CoCa's stands after the padding
        and can_run(text.transformer)
    )


def cut_lengths(model: Any, tokens: Tensor) -> Tensor:
    """The positions up to each end token, which is one: int64 [B] for int64 [B, context]."""
    if _pool(model) == "argmax":
        return tokens.argmax(dim=1) + 1
    end = getattr(model, "text_eos_id", None) or text_module(model).eos_id
    return (tokens == end).int().argmax(dim=1) + 1


def encode_packed(model: Any, tokens: Tensor, positions: Tensor, lengths: list[int]) -> Tensor:
    """Embed texts whose tokens and positions, int64 [sum of lengths], follow one another."""
    text = text_module(model)
    dtype = text.transformer.get_cast_dtype()
    x = text.token_embedding(tokens).to(dtype) + text.positional_embedding[positions].to(dtype)
    ends = filled(torch.tensor(lengths, device=x.device).cumsum(0) - 1)
    x = text.ln_final(run_blocks(text.transformer, x, lengths, ends, causal=True))
    projection = text.text_projection
    if projection is not None:
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return x[: len(lengths)]


def text_module(model: Any) -> Any:
    """The part of an open_clip model that embeds texts, which may be the model itself."""
    return getattr(model, "text", model)


def _pool(model: Any) -> str | None:
    return getattr(model, "text_pool_type", getattr(text_module(model), "pool_type", None))
