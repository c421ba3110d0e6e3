"""Cut texts against open_clip's ``encode_text`` of the whole context."""

from copy import deepcopy

import open_clip
import pytest
import torch
from open_clip import CLIP, CoCa, CustomTextCLIP
from torch import Tensor

from rhocache_workers.reference.text_tower import TextTower

from ...conftest import TINY

CAPTIONS = ["", "a cat", "a photo of two cats on a mat by the door", "word " * 30, "word " * 200]


def tokens() -> Tensor:
    return open_clip.get_tokenizer("ViT-B-32")(CAPTIONS)


def build(kind: type, **text) -> torch.nn.Module:
    config = deepcopy(TINY)
    config["text_cfg"] |= text
    if kind is CoCa:
        config["multimodal_cfg"] = {**config["text_cfg"], "dim_head": 16, "n_queries": 8}
    torch.manual_seed(0)
    return kind(**config).eval()


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize(
    "options",
    [
        {"pool_type": "argmax"},
        {"pool_type": "eos", "eos_id": 49407},
        {"ls_init_value": 0.3, "proj_bias": True},
    ],
)
def test_a_causal_tower_is_cut_and_says_the_same(kind: type, options: dict) -> None:
    model = build(kind, **options)
    tower = TextTower(model, tokens())
    assert tower.cuts
    assert torch.equal(tower.lengths(tokens()), (tokens() != 0).sum(dim=1))
    with torch.no_grad():
        for some in (tokens(), tokens().flip(0), tokens()[[1, 1, 3]], tokens()[2:3]):
            whole = model.encode_text(some)
            torch.testing.assert_close(tower.encode(some), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (CustomTextCLIP, {"no_causal_mask": True, "pool_type": "last"}),  # SigLIP's
        (CLIP, {"no_causal_mask": True}),
        (CLIP, {"pool_type": "last"}),
        (CLIP, {"block_type": "custom", "qk_norm": True}),
        (CoCa, {"embed_cls": True, "output_tokens": True}),
    ],
)
def test_every_other_tower_gets_its_whole_context(kind: type, options: dict) -> None:
    model = build(kind, **options)
    tower = TextTower(model, tokens())
    assert not tower.cuts
    assert tower.lengths(tokens()).unique().tolist() == [77]
    with torch.no_grad():
        torch.testing.assert_close(
            tower.encode(tokens()), model.encode_text(tokens(), normalize=False), atol=0, rtol=0
        )


def test_a_tower_that_only_looks_causal_is_found_out() -> None:
    model = build(CLIP)
    model.attn_mask = torch.zeros(77, 77)  # every position sees every other
    for block in model.transformer.resblocks:
        block.attn.in_proj_weight.data.mul_(20)  # and, unlike in a new model, heeds what it sees
    assert not TextTower(model, tokens()).cuts
