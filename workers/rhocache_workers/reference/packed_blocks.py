"""open_clip's transformer blocks over sequences of many lengths, which lie one after another.

Norms and linear layers see one long matrix of tokens, so that nothing is computed to make lengths
equal; only attention goes by sequences. The last block finishes no states but those that are read.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor
from torch.nn.functional import linear, normalize, scaled_dot_product_attention

# Matrix products of fewer rows take other kernels, which round otherwise: they are filled up to
# this, so that an embedding's bits do not depend on what it is encoded with (see calibration.py).
MIN_ROWS = 16
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}  # of unit vectors

Runs = list[tuple[int, int]]  # sequences of one length that follow each other: length, how many


def can_run(transformer: Any) -> bool:
    """Whether a tower's transformer is one of open_clip's plain ones."""
    return (
        type(transformer) is Transformer
        and transformer.batch_first
        and all(type(block) is ResidualAttentionBlock for block in transformer.resblocks)
    )


def run_blocks(
    transformer: Any, x: Tensor, lengths: Sequence[int], read: Tensor, *, causal: bool
) -> Tensor:
    """Run B sequences through the blocks, and give the state at one position of each: [B, width].

    ``x`` [sum of lengths, width] holds the sequences, best with equal ``lengths`` side by side;
    ``read`` [B] are the rows that are wanted. In ``causal`` blocks none sees those after it.
    """
    runs = [(length, len(list(same))) for length, same in groupby(lengths)]
    *blocks, last = transformer.resblocks
    for block in blocks:
        x = _finish(block, x, _attend(block, x, runs, causal))
    return _finish(last, x[read], _attend(last, x, runs, causal)[read])


def _attend(block: Any, x: Tensor, runs: Runs, causal: bool) -> Tensor:
    """What each token takes from its sequence, [sum of lengths, width], before it is projected."""
    attention = block.attn
    states = linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    found = torch.empty_like(x)
    start = 0
    for length, count in runs:
        end = start + length * count
        heads = states[start:end].view(count, length, 3, attention.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        taken = scaled_dot_product_attention(query, key, value, is_causal=causal)
        found[start:end] = taken.transpose(1, 2).reshape(end - start, -1)
        start = end
    return found


def _finish(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    x = x + block.ls_1(block.attn.out_proj(attended))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def filled(rows: Tensor) -> Tensor:
    """Repeat the last row until there are enough for a matrix product."""
    missing = max(0, MIN_ROWS - len(rows))
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])


def agree(found: Tensor, expected: Tensor) -> bool:
    """Whether embeddings, [B, d] in any precision, have the same directions but for rounding."""
    a, b = (normalize(each.float(), dim=-1) for each in (found, expected))
    return bool((a - b).abs().max() <= _TOLERANCE[expected.dtype])
