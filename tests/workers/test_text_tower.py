"""Cut texts against open_clip's ``encode_text`` of the whole context."""

from copy import deepcopy

import open_clip
import pytest
import torch
from open_clip import CLIP, CoCa, CustomTextCLIP
from torch import Tensor

from rhocache_workers.text_tower import BUCKET, TextTower

from ..conftest import TINY

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
@pytest.mark.parametrize("pool", ["argmax", "eos"])
def test_a_causal_tower_is_cut_and_says_the_same(kind: type, pool: str) -> None:
    options = {"pool_type": pool} | ({"eos_id": 49407} if pool == "eos" else {})
    model = build(kind, **options)
    tower = TextTower(model, tokens())
    assert tower.cuts
    ends = tokens().argmax(dim=1)
    lengths = tower.lengths(tokens())
    assert (lengths > ends).all()
    assert ((lengths % BUCKET == 0) | (lengths == 77)).all()
    assert lengths[0] == BUCKET
    for i in range(len(CAPTIONS)):
        one = tokens()[i : i + 1]
        with torch.no_grad():
            whole = model.encode_text(one)
            torch.testing.assert_close(tower.encode(one), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (CustomTextCLIP, {"no_causal_mask": True, "pool_type": "last"}),  # SigLIP's
        (CLIP, {"no_causal_mask": True}),
        (CLIP, {"pool_type": "last"}),
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


def test_the_model_is_left_as_it_was() -> None:
    model = build(CLIP)
    TextTower(model, tokens()).encode(tokens()[:1])
    assert model.positional_embedding.shape == (77, 32)
    assert model.attn_mask.shape == (77, 77)
