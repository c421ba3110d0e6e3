"""The list of models against open_clip's own list, which the service can't import."""

import json
import subprocess
import sys

import pytest

from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.models import check_name, known_models
from rhocache_schemas.reference import ReferenceSpec

# In a process of its own: other tests add architectures to open_clip's in theirs.
CODE = """
import json, open_clip
listed = {
    name: {"dimension": open_clip.get_model_config(name)["embed_dim"], "pretrained": []}
    for name in open_clip.list_models()
}
for name, tag in open_clip.list_pretrained():
    listed[name]["pretrained"].append(tag)
print(json.dumps(listed))
"""


def test_the_list_is_open_clips() -> None:
    told = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    ours, theirs = (
        {name: (model["dimension"], set(model["pretrained"])) for name, model in each.items()}
        for each in (known_models(), json.loads(told.stdout))
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("model", "pretrained", "advice"),
    [
        ("ViT-B32", "openai", "did you mean ViT-B-32"),
        ("vit-b-32", "openai", "did you mean ViT-B-32"),
        ("ViT-B-32", "opena", "did you mean openai"),
        ("Resnet of mine", "openai", "`rhocache models` lists them"),
        ("ViT-B-32", "unheard-of", "`rhocache models ViT-B-32` lists them"),
    ],
)
def test_a_wrong_name_is_told_with_a_right_one(model: str, pretrained: str, advice: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_name(ReferenceSpec(model=model, pretrained=pretrained))
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("model", "pretrained"),
    [
        ("ViT-B-32", "openai"),
        ("ViT-B/32", "laion2b-s34b-b79k"),  # as open_clip takes them too
        ("ViT-B-32", "/models/mine.pt"),
        ("ViT-B-32", "mine.safetensors"),
        ("hf-hub:org/repo", None),
        ("local-dir:anywhere", None),
    ],
)
def test_what_open_clip_would_find_is_left_to_it(model: str, pretrained: str | None) -> None:
    check_name(ReferenceSpec(model=model, pretrained=pretrained))
