"""Trimmed image towers against open_clip's ``encode_image``."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from open_clip import CLIP, CoCa, CustomTextCLIP

from rhocache_workers.reference.image_tower import ImageTower

from ...conftest import TINY


def build(kind: type, **vision: Any) -> Any:
    config: dict[str, Any] = deepcopy(TINY)
    config["vision_cfg"] |= vision
    if kind is CoCa:
        config["multimodal_cfg"] = {**config["text_cfg"], "dim_head": 16, "n_queries": 8}
        config["text_cfg"] |= {"embed_cls": True, "output_tokens": True}
    torch.manual_seed(0)
    return kind(**config).eval()


def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize(
    "options", [{}, {"final_ln_after_pool": True}, {"ls_init_value": 0.3, "no_ln_pre": True}]
)
def test_a_tower_that_reads_its_class_token_is_trimmed(kind: type, options: dict) -> None:
    model = build(kind, **options)
    tower = ImageTower(model)
    assert tower.trims
    with torch.no_grad():
        whole = model.encode_image(pixels())
        torch.testing.assert_close(tower.encode(pixels()), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (CLIP, {"pool_type": "avg"}),
        (CLIP, {"attentional_pool": True, "attn_pooler_heads": 2}),
        (CLIP, {"block_type": "custom", "qk_norm": True}),
        (CLIP, {"layers": (1, 1, 1, 1), "width": 16}),  # a ResNet
        (CoCa, {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}),
    ],
)
def test_every_other_tower_runs_whole(kind: type, options: dict) -> None:
    model = build(kind, **options)
    tower = ImageTower(model)
    assert not tower.trims
    with torch.no_grad():
        whole = model.encode_image(pixels(), normalize=False)
        torch.testing.assert_close(tower.encode(pixels()), whole, atol=0, rtol=0)


def test_a_tower_that_only_looks_plain_is_found_out() -> None:
    model = build(CLIP)
    last = model.visual.transformer.resblocks[-1]
    last.register_forward_hook(lambda block, inputs, states: states.flip(1))
    assert not ImageTower(model).trims
