"""The configuration of a training run: a YAML file, and ``key=value`` changes to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from rhocache_schemas import storage
from rhocache_schemas.dataset.formats import AUTO, Kind
from rhocache_schemas.dataset.formats.base import Source
from rhocache_schemas.documents import Location, Strict, describe
from rhocache_schemas.errors import InvalidDocument, InvalidInput

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveRange = Annotated[
    tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]],
    Field(description="from, to"),
]


class Data(Source):
    """Where the pairs are, and how they are read."""

    kind: Annotated[
        Kind, Field(description="of the dataset; auto: by the suffix, or by what the folder holds")
    ] = AUTO
    on_missing: Annotated[
        Literal["error", "skip"],
        Field(description="what to do with a pair that is unusable, or lacks its reference row"),
    ] = "error"
    shuffle_buffer: Annotated[
        Positive, Field(description="pairs held for shuffling, by each process")
    ] = 4096
    workers: Annotated[
        int, Field(ge=0, description="processes that read and decode; 0: the training one does")
    ] = 0
    threads: Annotated[Positive, Field(description="that decode images, in each process")] = 2


class Augmentation(Strict):
    """What happens to a training image."""

    scale: Annotated[PositiveRange, Field(description="share of the image that a crop keeps")] = (
        0.9,
        1.0,
    )
    ratio: Annotated[PositiveRange, Field(description="width over height of a crop")] = (
        3 / 4,
        4 / 3,
    )
    flip: Annotated[Share, Field(description="probability of mirroring left and right")] = 0.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                raise ValueError(f"{name} runs from {low} down to {high}; put the smaller first")
        if self.scale[1] > 1:
            raise ValueError(f"scale {self.scale[1]} is more than the whole image")
        return self


class ClipObjective(Strict):
    """open_clip's own loss with the model's learnable logit scale."""

    name: Literal["clip"] = "clip"


class SiglipObjective(Strict):
    """open_clip's sigmoid loss; the model needs a logit bias."""

    name: Literal["siglip"] = "siglip"


class _RiskObjective(Strict):
    temperature: Annotated[
        Literal["constant", "learnable", "separate", "individual"],
        Field(description="separate: one for images, one for texts; individual: for each pair"),
    ] = "learnable"
    tau: Annotated[float, Field(ge=0.01, description="temperature to begin with")] = 0.07
    tau_lr: Annotated[float, Field(gt=0, description="largest learning rate of τ")] = 1e-4
    rho: Annotated[
        float | None,
        Field(ge=0, description="constraint on the divergence; null: log(B−1)/3, B pairs a batch"),
    ] = None
    gamma: Annotated[
        float, Field(gt=0, le=1, description="weight of a new estimate, once the schedule is over")
    ] = 0.2
    gamma_schedule: Annotated[
        Literal["cosine", "constant"],
        Field(description="cosine: from 1 in the first epoch down to gamma at half of them"),
    ] = "cosine"
    epsilon: Annotated[float, Field(ge=0)] = 1e-14


class GlobalObjective(_RiskObjective):
    """The global contrastive loss, in FastCLIP's versions (Wei et al. 2024, table 1)."""

    name: Literal["global"] = "global"
    version: Annotated[
        Literal["v0", "v1", "v2", "v3"] | None,
        Field(
            description="v0: learnable temperature, no factor τ; v1: constant; v2: individual; v3: "
            "learnable; in place of temperature"
        ),
    ] = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.version and "temperature" in self.model_fields_set:
            raise ValueError(f"version {self.version} says what the temperature is; leave it out")
        return self


class DRRhoObjective(_RiskObjective):
    """The DRRHO contrastive risk, steered by a reference cache."""

    name: Literal["drrho"] = "drrho"


class _Distillation(Strict):
    softmax_weight: Annotated[
        float, Field(ge=0, description="of the cross-entropy to the reference's softmax")
    ] = 1.0
    feature_weight: Annotated[
        float,
        Field(ge=0, description="of the squared distance to its features; wants equal dimensions"),
    ] = 0.0


class DistillObjective(_Distillation):
    """Distillation from a reference cache, beside open_clip's own loss."""

    name: Literal["distill"] = "distill"
    clip_weight: Annotated[float, Field(ge=0, description="of open_clip's own loss")] = 1.0


class DRRhoDistillObjective(_RiskObjective, _Distillation):
    """The DRRHO contrastive risk, and distillation from the same cache."""

    name: Literal["drrho+distill"] = "drrho+distill"


class JestObjective(Strict):
    """The sigmoid loss of pairs that are chosen together, out of a larger batch, as learnable."""

    name: Literal["jest"] = "jest"
    filter_ratio: Annotated[
        float, Field(ge=0, lt=1, description="share of the pairs that are read and not trained on")
    ] = 0.8
    chunks: Annotated[Positive, Field(description="in which the pairs are chosen")] = 16
    top_k: Annotated[bool, Field(description="the best of a chunk, and not a sample")] = False
    reference_bias: Annotated[
        float | None, Field(description="logit bias, for a reference that has none of its own")
    ] = None


ObjectiveConfig = (
    ClipObjective
    | SiglipObjective
    | GlobalObjective
    | DRRhoObjective
    | DistillObjective
    | DRRhoDistillObjective
    | JestObjective
)
_STEERED = ("drrho", "distill", "drrho+distill", "jest")


class Freeze(Strict):
    """What of the model is not trained: its towers, but for their last layers."""

    image: Annotated[
        int | None, Field(ge=0, description="layers to train, from the end; null: all of them")
    ] = None
    text: Annotated[int | None, Field(ge=0)] = None


class Accumulation(Strict):
    """A batch in parts, for one that a device can't hold the activations of."""

    parts: Positive = 1
    recompute: Annotated[
        bool, Field(description="encode twice, and hold the activations of one part at a time")
    ] = True


class Optimizer(Strict):
    """AdamW with linear warmup and a cosine down to zero."""

    lr: Annotated[float, Field(gt=0, description="largest learning rate")] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[Share, Share] = (0.9, 0.98)
    eps: Annotated[float, Field(gt=0)] = 1e-6
    warmup: Annotated[Share, Field(description="share of all steps")] = 0.05
    clip_grad_norm: Annotated[float | None, Field(gt=0)] = 1.0


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class TrainConfig(Strict):
    """A training run. ``objective: clip`` is short for ``objective: {name: clip}``."""

    output: Annotated[Location, Field(description="folder of the run; a local path")]
    data: Data
    model: Annotated[
        str | dict[str, Any],
        Field(
            description="open_clip architecture, local-dir:PATH to go on from, or an inline "
            "open_clip model config (embed_dim, vision_cfg, text_cfg)"
        ),
    ]
    pretrained: Annotated[
        str | None, Field(description="tag or checkpoint for an architecture given by its name")
    ] = None
    preprocess: Annotated[
        dict[str, Any],
        Field(description="changes to open_clip's preprocess config: mean, std, resize_mode, ..."),
    ] = Field(default_factory=dict)
    augmentation: Augmentation = Augmentation()
    freeze: Freeze = Freeze()
    objective: Annotated[
        Annotated[ObjectiveConfig, Field(discriminator="name")],
        BeforeValidator(_named),
    ]
    cache: Annotated[
        Location | None,
        Field(description="reference cache, for objectives that are steered by one"),
    ] = None
    batch_size: Annotated[int, Field(ge=2, description="pairs a step, of all processes")] = 256
    accumulation: Accumulation = Accumulation()
    epochs: Positive = 30
    max_steps: Annotated[
        Positive | None, Field(description="stop after so many; the schedules don't change")
    ] = None
    optimizer: Optimizer = Optimizer()
    ema: Annotated[
        float | None,
        Field(gt=0, lt=1, description="decay of the weights' moving average; exported beside them"),
    ] = None
    seed: Annotated[int, Field(ge=0)] = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Annotated[
        Literal["fp32", "bf16"], Field(description="bf16: automatic mixed precision")
    ] = "fp32"
    compile: Annotated[
        str | None, Field(description="backend of torch.compile, such as inductor")
    ] = None
    log_every: Annotated[Positive, Field(description="steps")] = 10
    checkpoint_every: Annotated[Positive, Field(description="steps")] = 1000
    keep_checkpoints: Annotated[Positive, Field(description="the last so many")] = 2

    @model_validator(mode="after")
    def _cache_where_it_is_used(self) -> Self:
        name = self.objective.name
        if name in _STEERED and self.cache is None:
            raise ValueError(f"objective {name} needs a reference cache: set cache to its location")
        if name not in _STEERED and self.cache is not None:
            raise ValueError(f"objective {name} uses no cache; leave cache out")
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file and apply ``key=value`` changes, as in ``optimizer.lr=1e-3``.

    Values are YAML themselves, so ``max_steps=null`` and ``augmentation.scale=[0.5,1]`` work. A
    file may begin with ``extends: OTHER``, a path from where it lies: what it sets itself, at the
    top level, is in place of what the other one does.

    Raises InvalidDocument, naming each wrong or unknown field, and InvalidInput for a change that
    is not of the form key=value.
    """
    content = _read(Path(storage.plain(path) if isinstance(path, str) else path))
    for override in overrides:
        _apply(content, override)
    try:
        return TrainConfig.model_validate(content)
    except ValidationError as error:
        raise InvalidDocument(f"{path}: {describe(error)}") from error


def _read(path: Path, extended: tuple[Path, ...] = ()) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidDocument(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InvalidDocument(f"{path} holds no mapping of settings")
    base = content.pop("extends", None)
    if base is None:
        return content
    chain = (*extended, path.resolve())
    other = path.parent / storage.plain(str(base))
    if other.resolve() in chain:
        raise InvalidDocument(f"{path} extends {base}, which extends it")
    return _read(other, chain) | content


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise InvalidInput(f"{override!r} is not of the form key=value, as in optimizer.lr=1e-3")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput(f"{override!r}: {text!r} is not a YAML value") from error
    *parents, last = key.split(".")
    target = content
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise InvalidInput(f"{override!r}: {parent} is a single value here, not a mapping")
    target[last] = value
