"""Loading a frozen reference with open_clip, and its fingerprint."""

import hashlib
import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import get_input_dtype
from torch import Tensor

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import InvalidInput, MissingExtra, ReferenceUnavailable, RhocacheError
from rhocache_schemas.job.paths import is_local
from rhocache_schemas.job.views import Views
from rhocache_schemas.models import did_you_mean
from rhocache_schemas.reference import HF_HUB, LOCAL_DIR, Dtype, ReferenceSpec
from rhocache_schemas.weights.activation import activation_warning
from rhocache_schemas.weights.file import check_folder, find_weights
from rhocache_schemas.weights.state_dict import readable_weights, without_advice
from rhocache_workers.reference.image_tower import ImageTower
from rhocache_workers.reference.preprocess import Preprocess
from rhocache_workers.reference.text_tower import TextTower

# What the tokenizer makes of these tells two tokenizers apart, whatever their settings are called.
_PROBE = ["a photo of a cat", "Ünïcödé, 数字 123 & emoji 🙂!", "UPPER lower  spaces\tand\nlines"]


@dataclass(frozen=True, slots=True)
class Reference:
    spec: ReferenceSpec
    model: Any  # open_clip's CLIP, CustomTextCLIP or CoCa, in evaluation mode
    image_tower: ImageTower
    text_tower: TextTower
    preprocess: Preprocess
    tokenizer: Any  # open_clip's: of B texts, int64 [B, context length]
    architecture: dict[str, Any]
    device: torch.device
    warning: str | None = None  # of weights that seem to be another activation's
    copies: torch.cuda.Stream | None = None  # to a GPU

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach().float().exp())

    @property
    def logit_bias(self) -> float | None:
        bias = getattr(self.model, "logit_bias", None)
        return None if bias is None else float(bias)

    @property
    def dimension(self) -> int:
        return int(self.architecture["embed_dim"])

    @property
    def context_length(self) -> int:
        """Tokens that the tokenizer makes of a text; a tower's own limit may be another or none."""
        return int(self.tokenizer.context_length)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        size = self.model.visual.image_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Embed B images, uint8 [B, 3, height, width]: float32 [B, d], unit, on the device."""
        pixels = self.preprocess.normalize(self._upload(pixels))
        pixels = pixels.to(get_input_dtype(self.spec.precision))
        return _unit(self.image_tower.encode(pixels))

    @torch.inference_mode()
    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Embed B texts, int64 [B, context length]: float32 [B, d], unit, on the device."""
        return _unit(self.text_tower.encode(tokens))

    def _upload(self, pixels: Tensor) -> Tensor:
        """To a GPU on a stream of its own, so that it is copied while the batch before it runs."""
        if self.copies is None:
            return pixels
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.copies):
            there = pixels.pin_memory().to(self.device, non_blocking=True)
        computing.wait_stream(self.copies)
        there.record_stream(computing)  # or the copies of later batches would take its memory
        return there

    def fingerprint(
        self, dtype: Dtype, source: Source | None = None, views: Views | int = 1
    ) -> Fingerprint:
        return Fingerprint(
            weights_sha256=_hash_weights(self.model.state_dict()),
            architecture=_plain(self.architecture),
            preprocessing=_plain(self.model.visual.preprocess_cfg),
            tokenizer={
                "class": type(self.tokenizer).__name__,
                "context_length": self.context_length,
                "probe_sha256": hashlib.sha256(
                    self.tokenizer(_PROBE).numpy().tobytes()
                ).hexdigest(),
            },
            precision=self.spec.precision,
            dtype=dtype,
            views=views,
        ).model_copy(update=dict(source.of_rows) if source else None)

    def check_made(self, manifest: Manifest, cache: str) -> None:
        """See that this reference made a cache, whatever that was converted to since.

        Of embeddings that were imported the numbers alone can tell. Raises FingerprintMismatch.
        """
        made = manifest.fingerprint
        now = self.fingerprint(made.dtype, manifest.source, made.views)
        same = {"format_version": made.format_version, "made_from": made.made_from}
        if not made.imported:
            made.check_same(now.model_copy(update=same), cache)


def load_reference(spec: ReferenceSpec, device: str = "cpu") -> Reference:
    """Load a reference in evaluation mode; weights come as safetensors or ``weights_only`` alone.

    Raises InvalidInput when there is no such model or tag; ReferenceUnavailable when there is no
    such folder or file, when a hub can't be reached, when the weights can't be read or don't fit,
    or when open_clip can't run the model in this precision; MissingExtra when it needs
    transformers, which is not installed.
    """
    name = open_clip_name(spec.model, spec.pretrained)
    with refusing(f"cannot load {_name(spec)}"):
        architecture: Any = open_clip.get_model_config(name)
        refuse_code(architecture)
        need_transformers(name, architecture)
        warning = activation_warning(name, spec.pretrained, architecture)
        with readable_weights(name, spec.pretrained) as (source, weights):
            made: Any = open_clip.create_model_from_pretrained(
                source, weights, precision=spec.precision, device=device, weights_only=True
            )
        tokenizer: Any = open_clip.get_tokenizer(name)
    torch.backends.cudnn.allow_tf32 = False  # on by default, and 1e-3 off
    model, preprocess = made
    model.eval().requires_grad_(False)
    with refusing(f"{_name(spec)} does not run in {spec.precision} on {device}"):
        reference = Reference(
            spec=spec,
            model=model,
            image_tower=ImageTower(model),
            text_tower=TextTower(model, tokenizer(_PROBE)),
            preprocess=Preprocess(preprocess),
            tokenizer=tokenizer,
            architecture=architecture,
            device=torch.device(device),
            warning=warning,
            copies=torch.cuda.Stream(device) if device != "cpu" else None,
        )
        reference.encode_images(torch.zeros(1, 3, *reference.image_size, dtype=torch.uint8))
        reference.encode_texts(tokenizer(_PROBE))
    return reference


def open_clip_name(model: str, pretrained: str | None) -> str:
    """Return the name by which open_clip takes ``model``, after checks that need no weights.

    ``pretrained`` None leaves it open which weights an architecture will have.

    Raises InvalidInput for a name that open_clip does not have, and ReferenceUnavailable.
    """
    if model.startswith(LOCAL_DIR):
        _check_folder(Path(model.removeprefix(LOCAL_DIR)))
    elif not model.startswith(HF_HUB):
        model = model.replace("/", "-")  # open_clip takes ViT-B/32 for a model, not elsewhere
        _check_architecture(model, pretrained)
    return model


def _check_folder(folder: Path) -> None:
    try:
        check_folder(folder)
        find_weights(folder)
    except ValueError as error:
        raise ReferenceUnavailable(str(error)) from error


def _check_architecture(name: str, pretrained: str | None) -> None:
    models = open_clip.list_models()
    if name not in models:
        raise InvalidInput(f"open_clip has no model {name!r}{did_you_mean(name, models)}")
    if pretrained is None:
        return
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if not tag and not is_local(pretrained):
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise InvalidInput(
            f"{pretrained!r} is neither a file nor one of {name}'s pretrained tags: "
            + (", ".join(tags) or "it has none")
        )
    config: Any = open_clip.get_model_config(name)
    if tag and tag.get("quick_gelu", False) != config.get("quick_gelu", False):
        # open_clip only warns, and computes embeddings that the model was not trained to give.
        base = name.removesuffix("-quickgelu")
        right = base if name != base else f"{base}-quickgelu"
        raise ReferenceUnavailable(
            f"{name} has another activation than {pretrained} was trained with; use {right}"
        )


def need_transformers(name: str, architecture: dict[str, Any]) -> None:
    """Some text towers, and more tokenizers, are those of a package that open_clip doesn't need.

    Raises MissingExtra.
    """
    text = architecture["text_cfg"]
    named = text.get("hf_model_name") or text.get("hf_tokenizer_name") or "siglip" in name.lower()
    if named and find_spec("transformers") is None:
        raise MissingExtra(
            f"{name} takes its tokenizer or text tower from transformers, which is not installed: "
            "pip install 'rhocache[hf]'"
        )


def refuse_code(architecture: dict[str, Any]) -> None:
    """transformers runs a tokenizer repository's own Python when its config asks for that."""
    if "trust_remote_code" in architecture["text_cfg"].get("tokenizer_kwargs", {}):
        raise ReferenceUnavailable("the model's config asks for trust_remote_code: refused")


def _unit(features: Tensor) -> Tensor:
    """Normalise after the cast: a half-precision norm would be off by up to 1e-3.

    Unlike torch's ``normalize`` this makes a zero vector NaN: it has no direction to store.
    """
    features = features.float()
    return features / features.norm(dim=-1, keepdim=True)


def _hash_weights(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(config: Any) -> dict[str, Any]:
    """A config as JSON would give it back: lists for tuples."""
    return json.loads(json.dumps(config))


def _name(spec: ReferenceSpec) -> str:
    return f"{spec.model}/{spec.pretrained}" if spec.pretrained else spec.model


@contextmanager
def refusing(what: str) -> Generator[None]:
    """Raise whatever open_clip, files or hubs lead to as ReferenceUnavailable, in one line."""
    try:
        with quiet():
            yield
    except RhocacheError:
        raise
    except Exception as error:
        raise ReferenceUnavailable(f"{what}: {without_advice(error)}") from error


@contextmanager
def quiet() -> Generator[None]:
    """open_clip tells its progress on the root logger."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)
