import pytest
from pydantic import ValidationError

from rhocache_schemas.reference import ReferenceSpec


@pytest.mark.parametrize(
    ("model", "pretrained"),
    [
        ("ViT-B-32", "laion2b_s34b_b79k"),
        ("ViT-B-32", "/weights/b32.safetensors"),
        ("local-dir:/models/b32", None),
        ("hf-hub:laion/CLIP-ViT-B-32", None),
    ],
)
def test_accepted(model: str, pretrained: str | None) -> None:
    ReferenceSpec(model=model, pretrained=pretrained)


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B-32", None, "needs pretrained"),
        ("ViT-B-32", "", "needs pretrained"),
        ("local-dir:/m", "openai", "brings its own weights"),
        ("local-dir:", None, "names nothing"),
        ("", "openai", "names nothing"),
    ],
)
def test_refused(model: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ReferenceSpec(model=model, pretrained=pretrained)


def test_local_dir() -> None:
    assert ReferenceSpec(model="local-dir:/m/x").local_dir == "/m/x"
    assert ReferenceSpec(model="ViT-B-32", pretrained="openai").local_dir is None
