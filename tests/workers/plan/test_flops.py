"""Operations are checked against formulas of matrix shapes, two for each multiply-add."""

from pathlib import Path

import pytest
from open_clip import tokenize

from rhocache_schemas.errors import InvalidInput, ReferenceUnavailable, RhocacheError
from rhocache_workers.plan.flops import Outline


def transformer(positions: int, width: int, layers: int) -> int:
    """Query, key, value and output (4 w²), an MLP of four times the width (8 w²), attention."""
    return 2 * layers * (12 * positions * width**2 + 2 * positions**2 * width)


def trimmed(positions: int, width: int, layers: int) -> int:
    """The same where the last layer's output projection (w²) and MLP are of one position."""
    return transformer(positions, width, layers) - 2 * 9 * (positions - 1) * width**2


def vision_transformer(image: int, patch: int, width: int, layers: int, dimension: int) -> int:
    patches = (image // patch) ** 2
    embedding = 2 * patches * 3 * patch**2 * width
    return embedding + trimmed(patches + 1, width, layers) + 2 * width * dimension


def text_transformer(positions: int, width: int, layers: int, dimension: int) -> int:
    return trimmed(positions, width, layers) + 2 * width * dimension


def whole_text_transformer(positions: int, width: int, layers: int, dimension: int) -> int:
    return transformer(positions, width, layers) + 2 * width * dimension


def resnet_50() -> int:
    """CLIP's: three convolutions for a stem, anti-aliased strides, an attention pool."""

    def convolution(side: int, inside: int, outside: int, kernel: int) -> int:
        return 2 * side**2 * inside * outside * kernel**2

    total = sum(convolution(112, *shape, 3) for shape in ((3, 32), (32, 32), (32, 64)))
    inside, before = 64, 56
    for blocks, width, side in ((3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)):
        for block in range(blocks):
            total += convolution(before, inside, width, 1) + convolution(before, width, width, 3)
            total += convolution(side, width, 4 * width, 1)
            total += convolution(side, inside, 4 * width, 1) if block == 0 else 0
            inside, before = 4 * width, side
    positions, dimension = 7 * 7 + 1, 1024
    pool = 3 * inside**2 + inside * dimension + 2 * positions * inside
    return total + 2 * positions * pool


def siglip_image() -> int:
    """No class token; a pool by one learned query, with an MLP."""
    positions, width = 14**2, 768
    embedding = 2 * positions * 3 * 16**2 * width
    pool = 2 * (10 * width**2 + 2 * positions * width**2 + 2 * positions * width)
    return embedding + transformer(positions, width, 12) + pool


@pytest.mark.parametrize(
    ("model", "image", "context", "text"),
    [
        (
            "ViT-B-32",
            vision_transformer(224, 32, 768, 12, 512),
            77,
            text_transformer(77, 512, 12, 512),
        ),
        (
            "ViT-L-14",
            vision_transformer(224, 14, 1024, 24, 768),
            77,
            text_transformer(77, 768, 12, 768),
        ),
        ("RN50", resnet_50(), 77, text_transformer(77, 512, 12, 1024)),
        ("ViT-B-16-SigLIP", siglip_image(), 64, whole_text_transformer(64, 768, 12, 768)),
    ],
)
def test_operations_are_those_of_the_shapes(
    model: str, image: int, context: int, text: int
) -> None:
    outline = Outline(model)
    assert outline.image_flops() == image
    assert outline.context_length == context
    assert outline.text_flops(context) == text


def test_the_published_count_of_vit_b_32_less_what_is_trimmed() -> None:
    trimmed_off = 9 * 49 * 768**2
    assert Outline("ViT-B/32").image_flops() / 2 == pytest.approx(4.4e9 - trimmed_off, rel=0.01)


def test_an_exported_folder(reference_folder: Path) -> None:
    outline = Outline(f"local-dir:{reference_folder}")
    assert outline.dimension == 32
    assert outline.image_flops() == vision_transformer(32, 8, 64, 2, 32)
    assert outline.text_flops(77) == text_transformer(77, 32, 2, 32)
    assert outline.text_flops(16) == text_transformer(16, 32, 2, 32)


def test_a_caption_takes_the_positions_up_to_its_end(reference_folder: Path) -> None:
    captions = ["a cat", "two old trees by the sea", "very " * 200]
    lengths = Outline(f"local-dir:{reference_folder}").text_lengths(captions)
    used = (tokenize(captions) != 0).sum(dim=1).tolist()
    assert used == [4, 8, 77]
    assert lengths == used


def test_a_tower_that_sees_the_padding_takes_all_positions() -> None:
    assert Outline("ViT-B-16-SigLIP").text_lengths(["a cat", "a dog"]) == [64, 64]
    assert Outline("coca_ViT-B-32").text_lengths(["a cat"]) == [76]


@pytest.mark.parametrize(
    ("model", "pretrained", "error", "message"),
    [
        ("VitB32", None, InvalidInput, "did you mean.*ViT-B-32"),
        ("ViT-B-32", "laion3b", InvalidInput, "pretrained tags"),
        ("local-dir:/no/such", None, ReferenceUnavailable, "no folder /no/such"),
    ],
)
def test_a_name_that_leads_nowhere(
    model: str, pretrained: str | None, error: type[RhocacheError], message: str
) -> None:
    with pytest.raises(error, match=message):
        Outline(model, pretrained)
