"""An image classifier: an open_clip model's image tower, and a linear layer on its embeddings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.model.clip import Model, build_model, write_model

CONFIG = "classifier.json"
WEIGHTS = "classifier.safetensors"

# open_clip makes no image tower alone: the smallest of text towers, to be left out.
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


class Classifier(nn.Module):
    """``head(visual(image))``: float [B, 3, height, width] to logits [B, classes]."""

    def __init__(self, visual: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(width, classes)

    def forward(self, image: Tensor, tokens: Tensor | None = None) -> dict[str, Tensor]:  # noqa: ARG002
        """Return ``logits``; ``tokens`` are the labels, which it has no use for."""
        return {"logits": self.head(self.visual(image))}

    def lock_image_tower(self, unlocked_groups: int) -> None:
        lock: Any = self.visual.lock
        lock(unlocked_groups=unlocked_groups)

    def lock_text_tower(self, unlocked_layers: int) -> None:
        raise InvalidInput(f"freeze.text={unlocked_layers}: a classifier has no text tower")


class Classes:
    """The names of classes, in their order. Called with one it returns its number, int64 [1, 1].

    It stands where a tokenizer does: the class is all that there is of a pair's text.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def __call__(self, name: str) -> Tensor:
        return torch.tensor([[self._numbers[name]]])


@dataclass(frozen=True, slots=True)
class ClassifierModel(Model):
    """A ``Classifier`` and its ``Classes``."""

    tokenizer: Classes

    def export(self, folder: Path) -> None:
        """Write ``classifier.json`` and ``classifier.safetensors``, for ``load_classifier``."""
        config = {
            "classes": self.tokenizer.names,  # logit i is that of class i
            "model_cfg": self.model_cfg,
            "preprocess_cfg": self.preprocess_cfg,
        }
        write_model(self.module, config, folder / WEIGHTS, folder / CONFIG)


def build_classifier(
    classes: Sequence[str],
    model: str | dict[str, Any],
    pretrained: str | None = None,
    preprocess: dict[str, Any] | None = None,
) -> ClassifierModel:
    """Make a classifier on the CPU, in float32: the image tower of what ``build_model`` makes of
    the same arguments, and a new linear layer. An inline model needs no text_cfg.

    Raises InvalidInput as ``build_model`` does, and for a tower that returns more than embeddings.
    """
    whole = model if isinstance(model, str) else {**model, "text_cfg": _NO_TEXT}
    clip = build_model(whole, pretrained, preprocess)
    visual = clip.module.visual.eval()
    with torch.no_grad():
        embedding = visual(torch.zeros(1, 3, *clip.image_size))
    if not isinstance(embedding, Tensor):
        raise InvalidInput("a classifier needs an image tower that returns embeddings alone")
    classifier = Classifier(visual.train(), embedding.shape[1], len(classes))
    return ClassifierModel(classifier, Classes(classes), clip.model_cfg)


def load_classifier(folder: str | Path) -> ClassifierModel:
    """Read what a run has exported: on the CPU, in evaluation mode.

    ``model.module(image)["logits"]`` takes float32 [B, 3, height, width], which
    ``normalizer(model.preprocess_cfg, device)`` makes of uint8. Raises InvalidInput for a folder
    that holds none.
    """
    try:
        config = json.loads((Path(folder) / CONFIG).read_text())
    except OSError as error:
        raise InvalidInput(f"{folder} holds no classifier: {CONFIG}: {error.strerror}") from error
    preprocess = {
        name: config["preprocess_cfg"][name]
        for name in ("mean", "std", "interpolation", "resize_mode")
    }
    model = build_classifier(config["classes"], config["model_cfg"], preprocess=preprocess)
    model.module.load_state_dict(load_file(Path(folder) / WEIGHTS))
    model.module.eval()
    return model
