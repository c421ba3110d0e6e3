"""A CLIP of which one tower or both are a cache's embeddings, with a head on them or without."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.documents import Location, Strict
from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.weights import file
from rhocache_trainer.model.clip import ClipModel, Model, build_model, write_model
from rhocache_trainer.model.heads import AsIs, CachedTower, Head
from rhocache_trainer.settings import Positive

CONFIG = "cached_towers.json"
WEIGHTS = "cached_towers.safetensors"

# open_clip makes no tower alone: the smallest of the other kind, to be left out.
_SMALLEST = {
    "vision_cfg": {"image_size": 8, "patch_size": 8, "width": 8, "head_width": 8, "layers": 1},
    "text_cfg": {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1},
}
_LOGITS: dict[str, float | None] = {"logit_scale": math.log(1 / 0.07), "logit_bias": None}
OF_LOGITS = {f"init_{name}" for name in _LOGITS}
_PREPROCESS = ("mean", "std", "interpolation", "resize_mode")


class CachedTowers(Strict):
    """Towers that are not run: a cache has their embeddings, of view 0 and of caption 0."""

    cache: Annotated[
        Location | None, Field(description="whose embeddings; null: the first that steers")
    ] = None
    image: Annotated[
        Head | None, Field(description="as_is, linear, mlp or adapter; null: a tower is trained")
    ] = None
    text: Annotated[Head | None, Field(description="likewise")] = None
    width: Annotated[
        Positive | None,
        Field(description="of what both heads make, where both are cached; null: the cache's"),
    ] = None
    reference: Annotated[
        str | None,
        Field(
            description="the cache's reference, local-dir:PATH and the like, whose weights the "
            "export is put together with; for a tower as_is"
        ),
    ] = None

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        heads = [head for head in (self.image, self.text) if head is not None]
        if not heads:
            raise ValueError("say which towers the cache stands in for: image, text or both")
        if self.width is not None and not self.both:
            raise ValueError("width is the other tower's embed_dim; leave it out")
        if self.reference is not None and not (len(heads) == 1 and isinstance(heads[0], AsIs)):
            raise ValueError(
                "reference is for one tower as_is: no open_clip model has a head on its embeddings"
            )
        return self

    @property
    def both(self) -> bool:
        return self.image is not None and self.text is not None


class CachedClip(nn.Module):
    """As an open_clip model with ``output_dict``; what is cached takes embeddings, [B, d]."""

    def __init__(self, image: nn.Module, text: nn.Module, logits: dict[str, Tensor | None]) -> None:
        super().__init__()
        self.image, self.text = image, text
        for name, value in logits.items():
            self.register_parameter(name, None if value is None else nn.Parameter(value.clone()))

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        features = {
            "image_features": self.encode_image(image, normalize=True),
            "text_features": self.encode_text(text, normalize=True),
            "logit_scale": self.get_parameter("logit_scale").exp(),
        }
        if "logit_bias" in dict(self.named_parameters(recurse=False)):
            features["logit_bias"] = self.get_parameter("logit_bias")
        return features

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        return _unit(self.image(image), wanted=normalize)

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        return _unit(self.text(text), wanted=normalize)

    def lock_image_tower(self, unlocked_groups: int) -> None:
        lock: Any = self.image.lock
        lock(unlocked_groups=unlocked_groups)

    def lock_text_tower(self, unlocked_layers: int) -> None:
        lock: Any = self.text.lock
        lock(unlocked_layers)


class _TextTower(nn.Module):
    """What is left of an open_clip model without its image tower."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        del clip.visual, clip.logit_scale, clip.logit_bias
        self.clip = clip

    def forward(self, tokens: Tensor) -> Tensor:
        return self.clip.encode_text(tokens)

    def lock(self, unlocked_layers: int) -> None:
        self.clip.lock_text_tower(unlocked_layers)


@dataclass(frozen=True)
class CachedModel(Model):
    """A ``CachedClip``, with what of it a cache stands in for and which reference made that."""

    cached: CachedTowers
    reference: dict[str, Any]  # model, weights_sha256, and the dimension of its embeddings

    @property
    def preprocess_cfg(self) -> dict[str, Any]:
        return {} if self.cached.image else self.module.image.preprocess_cfg

    def export(self, folder: Path) -> None:
        """Write ``cached_towers.json`` and ``cached_towers.safetensors``, for ``load_cached``.

        With ``cached.reference`` also what ``ClipModel.export`` does: an open_clip model of the
        tower that was trained and the reference's own.
        """
        config = {
            "cached": self.cached.model_dump(mode="json", include={"image", "text", "width"}),
            "reference": self.reference,
            "model_cfg": self.model_cfg,
            "preprocess_cfg": self.preprocess_cfg,
        }
        write_model(self.module, config, folder / WEIGHTS, folder / CONFIG)
        if self.cached.reference is not None:
            whole = put_together(self)
            whole.export(folder)


def build_cached(
    cached: CachedTowers,
    manifest: Manifest,
    model: str | dict[str, Any] | None,
    pretrained: str | None = None,
    preprocess: dict[str, Any] | None = None,
) -> CachedModel:
    """Make a model on the CPU whose cached towers take the embeddings of the cache's reference.

    The other tower is that of what ``build_model`` makes of the same arguments; an inline ``model``
    needs no configuration of a tower that is cached, and where both are it has no more than
    init_logit_scale and init_logit_bias.

    Raises InvalidInput as ``build_model`` does, for embeddings that the other tower's don't fit,
    and for a ``cached.reference`` that is another than the cache's.
    """
    reference = {
        "model": manifest.reference.model,
        "weights_sha256": manifest.fingerprint.weights_sha256,
        "dimension": manifest.dimension,
    }
    made = _build(cached, reference, model, pretrained, preprocess or {})
    if cached.reference is not None:
        _check_reference(made, manifest)
    return made


def _build(
    cached: CachedTowers,
    reference: dict[str, Any],
    model: str | dict[str, Any] | None,
    pretrained: str | None,
    preprocess: dict[str, Any],
) -> CachedModel:
    width = reference["dimension"]
    if cached.image is not None and cached.text is not None:
        out = cached.width or width
        image, text = (CachedTower(head.build(width, out)) for head in (cached.image, cached.text))
        given: dict[str, Any] = model if isinstance(model, dict) else {}
        numbers = {name: given.get(f"init_{name}", value) for name, value in _LOGITS.items()}
        logits = {n: None if v is None else torch.tensor(float(v)) for n, v in numbers.items()}
        return CachedModel(CachedClip(image, text, logits), None, given, cached, reference)
    if model is None:
        raise InvalidInput("model: say which tower is trained beside the cached one")
    whole = model if isinstance(model, str) else _SMALLEST | model
    clip = build_model(whole, pretrained, preprocess)
    module, out = clip.module, clip.model_cfg["embed_dim"]
    scales = {name: getattr(module, name) for name in _LOGITS}
    logits = {name: None if each is None else each.detach() for name, each in scales.items()}
    if cached.image is not None:
        image, text = CachedTower(cached.image.build(width, out)), _TextTower(module)
        tokenizer = clip.tokenizer
    else:
        assert cached.text is not None  # noqa: S101 (one of both is)
        image, text = module.visual, CachedTower(cached.text.build(width, out))
        tokenizer = None
    made = CachedClip(image, text, logits)
    return CachedModel(made, tokenizer, clip.model_cfg, cached, reference)


def load_cached(folder: str | Path) -> CachedModel:
    """Read what a run has exported: on the CPU, in evaluation mode.

    ``model.module(image, text)`` takes a cache's embeddings where a tower is cached, and otherwise
    what an open_clip model takes. Raises InvalidInput for a folder that holds none.
    """
    try:
        config = json.loads((Path(folder) / CONFIG).read_text())
    except OSError as error:
        raise InvalidInput(
            f"{folder} holds no model on cached embeddings: {CONFIG}: {error.strerror}"
        ) from error
    cached = CachedTowers.model_validate(config["cached"])
    of_images = config["preprocess_cfg"]  # empty where they are not read
    preprocess = {name: of_images[name] for name in _PREPROCESS if name in of_images}
    model = _build(cached, config["reference"], config["model_cfg"], None, preprocess)
    model.module.load_state_dict(load_file(Path(folder) / WEIGHTS))
    model.module.eval()
    return model


def needs_cache(folder: str | Path) -> bool:
    """Tell whether a folder is of a model on cached embeddings, and of no open_clip model too."""
    return (Path(folder) / CONFIG).is_file() and not (Path(folder) / file.CONFIG).is_file()


def put_together(model: CachedModel) -> ClipModel:
    """Return the open_clip model of the tower that was trained and of ``cached.reference``'s own.

    Raises InvalidInput where open_clip has no such model.
    """
    assert model.cached.reference is not None  # noqa: S101 (the caller asked)
    reference = build_model(model.cached.reference)
    images, texts = (reference, model) if model.cached.image else (model, reference)
    if bool(images.model_cfg.get("quick_gelu")) != bool(texts.model_cfg.get("quick_gelu")):
        raise InvalidInput(
            f"cached.reference={model.cached.reference} and the trained tower differ in "
            "quick_gelu, and an open_clip model has one for both"
        )
    logits = {f"init_{name}": _number(getattr(model.module, name)) for name in _LOGITS}
    logits = {name: value for name, value in logits.items() if value is not None}
    others = {name: value for name, value in texts.model_cfg.items() if name not in OF_LOGITS}
    config = {**others, "vision_cfg": images.model_cfg["vision_cfg"], **logits}
    preprocess = {name: images.preprocess_cfg[name] for name in _PREPROCESS}
    whole = build_model(config, None, preprocess)
    weights = _weights(images, whole.module, image=True) | _weights(
        texts, whole.module, image=False
    )
    weights |= {
        name: whole.module.state_dict()[name] for name in _LOGITS if f"init_{name}" in logits
    }
    whole.module.load_state_dict(weights)
    return ClipModel(whole.module, texts.tokenizer, whole.model_cfg)


def _weights(model: Model, of: nn.Module, *, image: bool) -> dict[str, Tensor]:
    """The weights of one tower, by the names that they have in an open_clip model ``of``."""
    state = model.module.state_dict()
    if isinstance(model, CachedModel):
        names = {"image.": "visual."} if image else {"text.clip.": ""}
        state = {
            new + name.removeprefix(old): value
            for old, new in names.items()
            for name, value in state.items()
            if name.startswith(old)
        }
    return {
        name: value.detach().cpu()
        for name, value in state.items()
        if name in of.state_dict() and name not in _LOGITS and name.startswith("visual.") == image
    }


def _number(value: Tensor | None) -> float | None:
    return None if value is None else float(value.detach())


def _check_reference(model: CachedModel, manifest: Manifest) -> None:
    """See before training that the export can be put together."""
    reference = build_model(model.cached.reference or "")
    made_by = manifest.fingerprint.architecture
    if made_by and made_by != reference.model_cfg:
        raise InvalidInput(
            f"cached.reference={model.cached.reference} has another architecture than the cache's "
            f"reference ({manifest.reference.model})"
        )
    put_together(model)


def _unit(features: Tensor, *, wanted: bool) -> Tensor:
    return normalize(features, dim=1) if wanted else features
