"""open_clip models: made from a name, a folder or an inline configuration, frozen, exported."""

import json
import logging
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Self

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from pydantic import Field
from safetensors import torch as safetensors
from torch import Tensor, nn

from rhocache_schemas import storage
from rhocache_schemas.documents import Strict
from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.paths import absolute_model, absolute_weights
from rhocache_schemas.reference import HF_HUB, LOCAL_DIR
from rhocache_schemas.text import printable
from rhocache_schemas.weights.activation import activation_warning
from rhocache_schemas.weights.file import CONFIG, WEIGHTS
from rhocache_schemas.weights.state_dict import readable_weights, without_advice

log = logging.getLogger(__name__)


class Freeze(Strict):
    """What of the model is not trained: its towers, but for their last layers."""

    image: Annotated[
        int | None, Field(ge=0, description="layers to train, from the end; null: all of them")
    ] = None
    text: Annotated[int | None, Field(ge=0)] = None


@dataclass(frozen=True, slots=True)
class Model:
    """What is trained, with what belongs to it."""

    module: Any  # its ``visual`` is an open_clip image tower; its forward returns features by name
    tokenizer: Any  # text -> int64 [1, length]: what the module takes beside an image; or None
    model_cfg: dict[str, Any]

    def with_module(self, module: Any) -> Self:
        """Return the same with other weights."""
        return replace(self, module=module)

    @property
    def preprocess_cfg(self) -> dict[str, Any]:
        return self.module.visual.preprocess_cfg

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        size = self.preprocess_cfg["size"]
        return (size, size) if isinstance(size, int) else tuple(size)

    def freeze(self, config: Freeze) -> None:
        """Keep the towers as they are but for their last layers, as open_clip locks them.

        Raises InvalidInput where open_clip can't lock so many layers of such a tower.
        """
        for tower, kept, lock in (
            ("image", config.image, self.module.lock_image_tower),
            ("text", config.text, self.module.lock_text_tower),
        ):
            if kept is None:
                continue
            try:
                lock(kept)
            except (AssertionError, IndexError, NotImplementedError) as error:
                raise InvalidInput(
                    f"freeze.{tower}={kept}: this {tower} tower can't be frozen up to so many "
                    "layers; 0 freezes all of it"
                ) from error

    def export(self, folder: Path) -> None:
        """Write the weights and what it takes to use them into ``folder``."""
        raise NotImplementedError


class ClipModel(Model):
    """open_clip.CLIP or CustomTextCLIP."""

    def export(self, folder: Path) -> None:
        """Write ``open_clip_config.json`` and ``open_clip_model.safetensors`` into ``folder``.

        ``open_clip.create_model_and_transforms(f"local-dir:{folder}")`` makes the model again with
        its preprocessing, and ``open_clip.get_tokenizer`` its tokenizer with the context length.
        """
        config = {"model_cfg": self.model_cfg, "preprocess_cfg": self.preprocess_cfg}
        write_model(self.module, config, folder / WEIGHTS, folder / CONFIG)
        if isinstance(self.tokenizer, HFTokenizer):
            self.tokenizer.save_pretrained(str(folder))


def write_model(module: nn.Module, config: dict[str, Any], weights: Path, described: Path) -> None:
    """Write a module's weights as safetensors, and then ``config`` as JSON."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()
    }
    storage.write_atomic(str(weights), safetensors.save(tensors))
    storage.write_atomic(str(described), json.dumps(config, indent=2).encode() + b"\n")


def build_model(
    model: str | dict[str, Any],
    pretrained: str | None = None,
    preprocess: dict[str, Any] | None = None,
) -> ClipModel:
    """Make an open_clip model on the CPU, in float32.

    ``model`` is an architecture (initialised at random unless ``pretrained`` names weights),
    ``local-dir:PATH`` or ``hf-hub:ORG/REPO`` with their weights, or a model config (initialised at
    random). ``preprocess`` changes entries of its preprocess config.

    Raises InvalidInput with open_clip's own words when there is no such model.
    """
    if isinstance(model, str):
        brings_weights = model.startswith((LOCAL_DIR, HF_HUB))
        name, weights = absolute_model(model), absolute_weights(pretrained)
        return _create(name, weights, preprocess or {}, needs_weights=brings_weights)
    if pretrained is not None:
        raise InvalidInput("pretrained goes with an architecture's name, not an inline model")
    with TemporaryDirectory() as folder:
        # A folder is how open_clip takes a config that is not one of its own.
        (Path(folder) / CONFIG).write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
        return _create(LOCAL_DIR + folder, None, preprocess or {}, needs_weights=False)


def _create(
    name: str, pretrained: str | None, preprocess: dict[str, Any], *, needs_weights: bool
) -> ClipModel:
    unknown = preprocess.keys() - {"mean", "std", "interpolation", "resize_mode"}
    if unknown:
        raise InvalidInput(
            f"preprocess: unknown {', '.join(sorted(unknown))}; "
            "it takes mean, std, interpolation and resize_mode"
        )
    brings_weights = needs_weights or pretrained is not None
    weights = readable_weights(name, pretrained) if brings_weights else nullcontext((name, None))
    try:
        with _quiet(), weights as (source, checkpoint):
            module = open_clip.create_model(
                source,
                pretrained=checkpoint,
                force_preprocess_cfg=preprocess,
                require_pretrained=needs_weights,
                output_dict=True,
            )
            tokenizer = open_clip.get_tokenizer(name)
            model_cfg = open_clip.get_model_config(name)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        what = "inline model" if name.startswith(LOCAL_DIR) and not needs_weights else name
        detail = without_advice(error).partition(" Available: ")[0]
        raise InvalidInput(f"open_clip cannot make {what}: {detail}") from error
    model_cfg = model_cfg or {}
    if brings_weights and (warning := activation_warning(name, pretrained, model_cfg)):
        log.warning("%s", printable(warning))
    return ClipModel(module, tokenizer, model_cfg)


def normalizer(preprocess_cfg: dict[str, Any], device: torch.device) -> nn.Module:
    """Return what makes of uint8 [B, 3, height, width] on ``device`` the float32 of the model.

    Of a model that takes no images, whose config is empty: what leaves its input as it is.
    """
    if not preprocess_cfg:
        return nn.Identity()
    return _Normalize(preprocess_cfg["mean"], preprocess_cfg["std"]).to(device)


class _Normalize(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        image = image.to(torch.float32, memory_format=torch.channels_last)
        return (image - self.mean) / self.std


@contextmanager
def _quiet() -> Generator[None]:
    """open_clip warns on the root logger of a random initialisation, which is meant here."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
