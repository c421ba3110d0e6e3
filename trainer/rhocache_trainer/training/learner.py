"""The learner: model, objective and optimizer, updated and saved together."""

import math
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.data.join import PairSource
from rhocache_trainer.loss.moving_average import LogMovingAverage
from rhocache_trainer.model.cached import build_cached
from rhocache_trainer.model.clip import normalizer
from rhocache_trainer.objectives import Features, Output
from rhocache_trainer.objectives.base import reference_of
from rhocache_trainer.optim import build_objective_optimizer, build_optimizer, build_scheduler
from rhocache_trainer.training.accumulation import backward_in_parts, joined
from rhocache_trainer.training.checkpoint import Rows
from rhocache_trainer.training.config import TrainConfig

_LARGEST_LOGIT_SCALE = math.log(100)  # as in the CLIP paper, and in open_clip's training

# Images uint8 [b, 3, height, width] and tokens [b, context length], or embeddings [b, d].
Part = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Update:
    """What a step has come to."""

    out: Output
    batch: Batch  # the pairs that were trained on
    gradient_norm: Tensor  # 0-dim, before clipping


class Learner:
    """A model, its objective and their optimizers. Equal on all ranks but for the random state."""

    def __init__(self, config: TrainConfig, fabric: Fabric, pairs: PairSource) -> None:
        """Raises InvalidInput for a model that can't be made from the config."""
        self._config = config
        self._fabric = fabric
        self._pairs = pairs
        torch.manual_seed(config.seed)
        arguments: Any = config.model, config.pretrained, config.preprocess
        if config.cached is None:
            self.model = config.objective.build_model(pairs, *arguments)
        else:
            manifest = CacheReader.open(config.embeddings).manifest
            self.model = build_cached(config.cached, manifest, *arguments)

    def prepare(self, total_steps: int) -> None:
        """Make ready for ``total_steps`` over the pairs.

        Raises InvalidInput for an objective that does not suit the model or the cache, and where
        the model can't be frozen so.
        """
        config, fabric = self._config, self._fabric
        self._total_steps = total_steps
        # Convolutions are faster with channels last, on CPUs as well; nothing else changes.
        module = self.model.module.to(fabric.device, memory_format=torch.channels_last)
        self.objective = config.objective.build(self._pairs).to(fabric.device)
        self.model.freeze(config.freeze)
        self._freeze_logits(module)
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise InvalidInput("freeze leaves nothing of the model to train")
        self.normalize = normalizer(self.model.preprocess_cfg, fabric.device)
        settings = config.optimizer
        optimizer = build_optimizer(settings, module)
        self._schedulers = [build_scheduler(settings, optimizer, total_steps)]
        own_lr = config.objective.own_lr or settings.lr
        own = build_objective_optimizer(settings, self.objective.parameters(), own_lr)
        if own is not None:
            self._schedulers.append(build_scheduler(settings, own, total_steps))
        self.average = None
        if config.ema is not None:
            average = get_ema_multi_avg_fn(config.ema)
            self.average = AveragedModel(module, multi_avg_fn=average, use_buffers=True)
        compiled: Any = torch.compile(module, backend=config.compile) if config.compile else module
        self._wrapped, fused = fabric.setup(compiled, optimizer)
        # Every rank has the whole gradient of τ, so that there is nothing to set up.
        self.optimizers: list[Any] = [fused] if own is None else [fused, own]
        if fabric.world_size > 1:
            torch.manual_seed(config.seed + fabric.global_rank)  # dropout is each rank's own

    @property
    def lr(self) -> float:
        """Of the weights' next update."""
        return self.optimizers[0].param_groups[0]["lr"]

    def start_epoch(self, epoch: int) -> None:
        self._wrapped.train()
        self.objective.start_epoch(epoch, self._config.epochs)

    def update(self, read: Batch, *, steering: bool) -> Update:
        """Make one step on this rank's pairs; ``steering`` asks what its gradient is made of."""
        self.objective.start_step(self._schedulers[0].last_epoch / self._total_steps)
        batch = self.objective.select(self._score, read)
        for module in (self._wrapped, self.objective):
            module.zero_grad()
        out = backward_in_parts(
            self._encode,
            self._parts(batch),
            lambda features: self.objective(features, batch, steering=steering),
            recompute=self._config.accumulation.recompute,
            model=self.model.module,
            backward=self._fabric.backward,
            no_sync=self._no_sync,
        )
        largest = self._config.optimizer.clip_grad_norm or math.inf
        norm = clip_grad_norm_(self._wrapped.parameters(), largest)
        for step in chain(self.optimizers, self._schedulers):
            step.step()
        module = self.model.module
        if not self._config.objective.own_temperature:
            with torch.no_grad():
                module.logit_scale.clamp_(0, _LARGEST_LOGIT_SCALE)
        if self.average is not None:
            self.average.update_parameters(module)
        return Update(out, batch, norm)

    def set_temperature(self, tau: float | None) -> None:
        """Have an exported model carry the temperature that it was trained at."""
        if self._config.objective.own_temperature and tau is not None:
            for module in self.modules():
                module.get_parameter("logit_scale").data.fill_(-math.log(tau))

    def modules(self) -> list[nn.Module]:
        """The model, and its moving average where there is one."""
        average: list[nn.Module] = [] if self.average is None else [self.average.module]
        return [self.model.module, *average]

    def rows(self) -> Rows:
        """Return views of the moving averages u, of this rank's share of the pairs or of all."""
        pairs, tables = range(0), dict[str, Tensor]()
        for name, module in self.objective.named_modules():
            if isinstance(module, LogMovingAverage):
                pairs = module.held
                tables |= {f"{name}.{table}": rows for table, rows in module.rows().items()}
        return Rows(pairs, tables)

    def state_dict(self) -> dict[str, Any]:
        """Return all but the rows, equal on all ranks."""
        state = {name: part.state_dict() for name, part in self._stateful().items()}
        for name in self.rows().tables:
            del state["objective"][name]
        return state

    def load_state_dict(self, state: dict[str, Any], rows: list[Rows]) -> None:
        self.rows().fill(rows)
        state = state | {"objective": self.objective.state_dict() | state["objective"]}
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])

    def _stateful(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"model": self.model.module, "objective": self.objective}
        parts |= {f"optimizer_{n}": each for n, each in enumerate(self.optimizers)}
        parts |= {f"scheduler_{n}": each for n, each in enumerate(self._schedulers)}
        return parts if self.average is None else parts | {"average": self.average}

    def _encode(self, part: Part) -> Features:
        image, tokens = part
        return self._wrapped(self.normalize(image), tokens)

    def _no_sync(self) -> AbstractContextManager[Any]:
        return self._fabric.no_backward_sync(self._wrapped)

    def _score(self, batch: Batch) -> Features:
        """As an evaluation would: without dropout, and without moving BatchNorm's statistics."""
        with evaluating(self._wrapped):
            return joined([self._encode(part) for part in self._parts(batch)])

    def _parts(self, batch: Batch) -> list[Part]:
        parts = self._config.accumulation.parts
        image, tokens = self._inputs(batch)
        return list(zip(image.chunk(parts), tokens.chunk(parts), strict=True))

    def _inputs(self, batch: Batch) -> Part:
        """What the towers take: those that are cached, their embeddings."""
        image, tokens, cached = batch.image, batch.tokens, self._config.cached
        if cached is not None:
            embedded = [each[:, self._pairs.cached] for each in reference_of(batch)]
            image = image if cached.image is None else embedded[0]
            tokens = tokens if cached.text is None else embedded[1]
        return image, tokens

    def _freeze_logits(self, module: nn.Module) -> None:
        """Freeze the model's logit scale and bias, where it has them, unless they have a part."""
        objective = self._config.objective
        parameters = dict(module.named_parameters())
        if objective.needs_logit_bias and "logit_bias" not in parameters:
            raise InvalidInput(
                f"objective {objective.known_as()} needs a model with a logit bias: set "
                "model.init_logit_bias, as to -10, and model.init_logit_scale to 2.3"
            )
        unused = {"logit_bias"} if not objective.needs_logit_bias else set[str]()
        if objective.own_temperature:
            unused |= {"logit_scale", "logit_bias"}
        for name in unused & parameters.keys():
            parameters[name].requires_grad_(False)


@contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """Put a module, and what it is made of, into evaluation mode; then each back into its own."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training
