"""The configuration of a training run: a YAML file, and ``key=value`` changes to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from rhocache_schemas import storage
from rhocache_schemas.dataset.augmentation import Augmentation
from rhocache_schemas.documents import Location, Strict, describe
from rhocache_schemas.errors import InvalidDocument, InvalidInput
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.replay import ReplayConfig
from rhocache_trainer.loss.references import ReferencesConfig
from rhocache_trainer.model.cached import OF_LOGITS, CachedTowers
from rhocache_trainer.model.clip import Freeze
from rhocache_trainer.objectives.base import ObjectiveConfig
from rhocache_trainer.optim import OptimizerConfig
from rhocache_trainer.settings import ChosenFrom, Positive
from rhocache_trainer.training.accumulation import Accumulation
from rhocache_trainer.training.loggers import LoggerConfig, Loggers

OneOrSeveral = Annotated[
    Annotated[Location, Tag("one")]
    | Annotated[tuple[Location, ...], Field(min_length=1), Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, (list, tuple)) else "one"),
]


class TrainConfig(Strict):
    """A training run. ``objective: clip`` is short for ``objective: {name: clip}``."""

    output: Annotated[Location, Field(description="folder of the run; a local path")]
    data: Data
    model: Annotated[
        str | dict[str, Any] | None,
        Field(
            description="open_clip architecture, local-dir:PATH to go on from, or an inline "
            "open_clip model config (embed_dim, vision_cfg, text_cfg); null where both towers are "
            "cached"
        ),
    ] = None
    cached: Annotated[
        CachedTowers | None, Field(description="towers that a cache's embeddings stand in for")
    ] = None
    pretrained: Annotated[
        str | None, Field(description="tag or checkpoint for an architecture given by its name")
    ] = None
    preprocess: Annotated[
        dict[str, Any],
        Field(description="changes to open_clip's preprocess config: mean, std, resize_mode, ..."),
    ] = Field(default_factory=dict)
    augmentation: Augmentation = Augmentation()
    replay: ReplayConfig = ReplayConfig()
    freeze: Freeze = Freeze()
    objective: Annotated[ObjectiveConfig, ChosenFrom("rhocache_trainer.objectives")]
    cache: Annotated[
        OneOrSeveral | None,
        Field(
            description="reference cache, for objectives that are steered by one; or a list of "
            "them, each of another reference"
        ),
    ] = None
    references: Annotated[
        ReferencesConfig | None,
        Field(description="how those of several caches are combined; null: by their mean"),
    ] = None
    batch_size: Annotated[int, Field(ge=2, description="pairs a step, of all processes")] = 256
    accumulation: Accumulation = Accumulation()
    epochs: Positive = 30
    max_steps: Annotated[
        Positive | None, Field(description="stop after so many; the schedules don't change")
    ] = None
    optimizer: OptimizerConfig = OptimizerConfig()
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
    loggers: Loggers = (LoggerConfig(name="tensorboard"),)
    checkpoint_every: Annotated[Positive, Field(description="steps")] = 1000
    keep_checkpoints: Annotated[Positive, Field(description="the last so many")] = 2

    @model_validator(mode="after")
    def _cache_where_it_is_used(self) -> Self:
        name, needed = self.objective.known_as(), self.objective.needs_cache
        if needed and self.cache is None:
            raise ValueError(f"objective {name} needs a reference cache: set cache to its location")
        if not needed and self.cache is not None:
            raise ValueError(f"objective {name} uses no cache; leave cache out")
        if self.references is not None:
            if len(self.caches) < 2:
                raise ValueError(
                    "references says how those of several caches are combined: give cache as a list"
                )
            if fault := self.references.fault(len(self.caches)):
                raise ValueError(f"references: {fault}")
        return self

    @model_validator(mode="after")
    def _model_of_what_is_trained(self) -> Self:
        cached, name = self.cached, self.objective.known_as()
        if cached is None:
            if self.model is None:
                raise ValueError("model: say what is trained")
            return self
        if not self.objective.takes_cached_towers:
            raise ValueError(f"objective {name} trains an image tower; leave cached out")
        if cached.cache is None and not self.caches:
            raise ValueError(
                f"objective {name} is steered by no cache: set cached.cache to that of the "
                "embeddings"
            )
        if cached.both and not (
            self.model is None or (isinstance(self.model, dict) and self.model.keys() <= OF_LOGITS)
        ):
            raise ValueError(
                "both towers are cached: of model there is no more than "
                + " and ".join(sorted(OF_LOGITS))
            )
        if not cached.both and self.model is None:
            raise ValueError("model: say which tower is trained beside the cached one")
        for tower in ("image", "text"):
            if getattr(cached, tower) and getattr(self.freeze, tower) is not None:
                raise ValueError(f"freeze.{tower}: this tower is cached, and frozen as it is")
        return self

    @property
    def embeddings(self) -> str:
        """The place of the cache whose embeddings stand in for towers."""
        assert self.cached is not None  # noqa: S101 (the caller has looked)
        return self.cached.cache or self.caches[0]

    @model_validator(mode="after")
    def _replay_where_images_are_shown(self) -> Self:
        if self.cached is not None and self.replay != ReplayConfig():
            raise ValueError("cached takes view 0 of each image; leave replay out")
        return self

    @property
    def caches(self) -> tuple[str, ...]:
        """The places of all caches, in their order."""
        if self.cache is None:
            return ()
        return (self.cache,) if isinstance(self.cache, str) else self.cache


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
        raise InvalidInput(
            f"{override!r}: {text!r} is not a YAML value; text may need quotes of its own"
        ) from error
    *parents, last = key.split(".")
    target = content
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise InvalidInput(f"{override!r}: {parent} is a single value here, not a mapping")
    target[last] = value
